/*
 * Code that appears while the program runs: an instruction rewritten before
 * each call of it, and functions that are written once and called a few times,
 * as a compiler at run time does.
 */
#include "workload.h"

#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#define CODE_SPACE (256 << 10)
#define FUNCTION   40 /* instructions in a generated function */
#define CALLS      4

typedef uint32_t (*function)(uint32_t);

static uint8_t *code;
static size_t code_at;

static bool setup(void)
{
	code = mmap(NULL, CODE_SPACE, PROT_READ | PROT_WRITE | PROT_EXEC,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (code == MAP_FAILED) {
		bench_reason = "no memory that is writable and executable";
		return false;
	}
	memset(code, 0xcc, CODE_SPACE);
	return true;
}

static bool smc_setup(void)
{
	/* lea eax, [rdi + imm32]; ret */
	static const uint8_t bytes[] = { 0x8d, 0x87, 0, 0, 0, 0, 0xc3 };

	if (!setup())
		return false;
	memcpy(code, bytes, sizeof(bytes));
	return true;
}

static uint64_t smc_run(uint64_t ops)
{
	function call = (function)(void *)code;

	for (uint64_t i = 0; i < ops; i++) {
		uint32_t value = (uint32_t)i * 2654435761u;

		*(volatile uint32_t *)(code + 2) = value;
		if (call(7) != value + 7)
			return 0;
	}
	return ops;
}

/* Writes a function of one argument and returns what it gives for the argument 1. */
static uint32_t generate(uint8_t **end, uint64_t *random)
{
	uint8_t *p = *end;
	uint32_t eax = 1;

	*p++ = 0x89; /* mov eax, edi */
	*p++ = 0xf8;
	for (int i = 0; i < FUNCTION; i++) {
		uint64_t draw = bench_random(random);
		uint32_t operand = (uint32_t)(draw >> 8);
		unsigned turn = 1 + (operand & 15);

		switch (draw & 3) {
		case 0: /* add eax, imm32 */
			*p++ = 0x05;
			memcpy(p, &operand, 4);
			p += 4;
			eax += operand;
			break;
		case 1: /* xor eax, imm32 */
			*p++ = 0x35;
			memcpy(p, &operand, 4);
			p += 4;
			eax ^= operand;
			break;
		case 2: /* rol eax, imm8 */
			*p++ = 0xc1;
			*p++ = 0xc0;
			*p++ = (uint8_t)turn;
			eax = eax << turn | eax >> (32 - turn);
			break;
		default: /* imul eax, eax, imm32 */
			operand |= 1;
			*p++ = 0x69;
			*p++ = 0xc0;
			memcpy(p, &operand, 4);
			p += 4;
			eax *= operand;
			break;
		}
	}
	*p++ = 0xc3;
	*end = p;
	return eax;
}

static uint64_t fresh_run(uint64_t ops)
{
	static uint64_t random = 0x2545f4914f6cdd1d;

	for (uint64_t i = 0; i < ops; i++) {
		uint8_t *start, *end;
		uint32_t expected;

		/* 6 bytes at most an instruction, and 16 for alignment and the ends */
		if (code_at + FUNCTION * 6 + 32 > CODE_SPACE)
			code_at = 0;
		start = end = code + code_at;
		expected = generate(&end, &random);
		code_at = (size_t)(end - code + 15) & ~(size_t)15;
		for (int n = 0; n < CALLS; n++) {
			if (((function)(void *)start)(1) != expected)
				return 0;
		}
	}
	return ops;
}

const struct workload code_workloads[] = {
	{ "smc", "code", smc_setup, smc_run, 0 },
	{ "fresh_code", "code", setup, fresh_run, 0 },
	{ 0 },
};
