/*
 * Where CPUID reports each feature: one table, read forwards to answer the
 * guest (cpuid.c) and backwards to learn what the host has (model.c).
 */
#ifndef INSULA_CPU_CPUID_BITS_H
#define INSULA_CPU_CPUID_BITS_H

#include "cpu/model.h"

enum cpuid_word {
	WORD_1_ECX,
	WORD_1_EDX,
	WORD_7_EBX,
	WORD_7_ECX,
	WORD_7_EDX,
	WORD_7_1_EAX,
	WORD_D_1_EAX,
	WORD_6_EAX,
	WORD_80000001_ECX,
	WORD_80000001_EDX,
	WORD_COUNT,
};

struct cpuid_bit {
	uint8_t feature, word, bit;
};

extern const struct cpuid_bit cpuid_bits[FEAT_COUNT];

#endif
