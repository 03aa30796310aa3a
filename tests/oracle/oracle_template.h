/* Between the template table and the generator: needs Zydis, which the rest of the oracle does not.
 */
#ifndef INSULA_TESTS_ORACLE_TEMPLATE_H
#define INSULA_TESTS_ORACLE_TEMPLATE_H

#include "oracle.h"
#include <Zydis/Zydis.h>

extern ZydisDecoder template_decoder;
/* Both sides may run it. */
bool template_acceptable(const ZydisDecodedInstruction *insn);
/* Runs otherwise on this host than the engine does, and may. */
bool vendor_excluded(const ZydisDecodedInstruction *insn);
/* What of its result is this host's own; enum case_skip. */
uint32_t vendor_skips(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops);
/* Prefixes and opcode with the given REX.RXB (or VEX) bits; returns their length. */
unsigned template_bytes(const struct template *t, uint8_t *out, unsigned rex_or_rxb, unsigned vvvv);

#endif
