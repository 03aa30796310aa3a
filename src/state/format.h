/* Constants of the stream format that writer and reader share; the grammar is in state/stream.h. */
#ifndef INSULA_STATE_FORMAT_H
#define INSULA_STATE_FORMAT_H

#define FORMAT_MAGIC "INSULAST"
#define FORMAT_MAGIC_LEN 8
#define FORMAT_VERSION 1u
#define FORMAT_SECTION 0x54434553u /* "SECT" */
#define FORMAT_END 0x2e444e45u     /* "END." */

#endif
