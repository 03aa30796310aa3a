/* cmocka with what it wants included before it. */
#ifndef INSULA_TESTS_DEV_CMOCKA_ALL_H
#define INSULA_TESTS_DEV_CMOCKA_ALL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
