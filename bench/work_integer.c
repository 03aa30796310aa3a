/*
 * Integer work written out in C: a loop of the kinds of code that small
 * programs are made of (lists, a matrix, a state machine, a checksum), and
 * SHA-256 (FIPS 180-4).
 */
#include "workload.h"

#include <stdbool.h>
#include <string.h>

/* --- core: list, matrix, state machine, CRC --- */

#define NODES 96
#define SIDE  14
#define INPUT 400

struct node {
	struct node *next;
	int16_t key, place;
};

static struct node nodes[NODES];
static int16_t left[SIDE][SIDE], right[SIDE][SIDE];
static int32_t product[SIDE][SIDE];
static char input[INPUT];

static uint16_t crc16(uint16_t crc, uint32_t value)
{
	for (int bit = 0; bit < 16; bit++) {
		bool odd = (crc ^ value) & 1;

		crc >>= 1;
		value >>= 1;
		if (odd)
			crc ^= 0xa001;
	}
	return crc;
}

static int by_key(const struct node *a, const struct node *b)
{
	return a->key - b->key;
}

static int by_place(const struct node *a, const struct node *b)
{
	return a->place - b->place;
}

static struct node *merge(struct node *a, struct node *b,
			  int (*compare)(const struct node *, const struct node *))
{
	struct node head, *tail = &head;

	while (a && b) {
		struct node **from = compare(a, b) <= 0 ? &a : &b;

		tail->next = *from;
		tail = *from;
		*from = tail->next;
	}
	tail->next = a ? a : b;
	return head.next;
}

static struct node *sort(struct node *list,
			 int (*compare)(const struct node *, const struct node *))
{
	struct node *runs[16] = { 0 }, *sorted = NULL;

	while (list) {
		struct node *run = list;
		int i = 0;

		list = list->next;
		run->next = NULL;
		for (; runs[i]; i++) {
			run = merge(runs[i], run, compare);
			runs[i] = NULL;
		}
		runs[i] = run;
	}
	for (int i = 0; i < 16; i++) {
		if (runs[i])
			sorted = merge(runs[i], sorted, compare);
	}
	return sorted;
}

static struct node *reverse(struct node *list)
{
	struct node *reversed = NULL;

	while (list) {
		struct node *next = list->next;

		list->next = reversed;
		reversed = list;
		list = next;
	}
	return reversed;
}

static uint16_t list_work(uint16_t crc)
{
	struct node *list;

	for (int i = 0; i < NODES; i++)
		nodes[i].next = i + 1 < NODES ? &nodes[i + 1] : NULL;
	list = reverse(sort(nodes, by_key));
	for (int wanted = 0; wanted < 16; wanted++) {
		const struct node *found = list;

		while (found && (found->key & 127) != wanted * 8)
			found = found->next;
		crc = crc16(crc, found ? (uint32_t)found->place : 0xffff);
	}
	list = sort(list, by_place);
	for (; list; list = list->next)
		crc = crc16(crc, (uint32_t)list->key);
	return crc;
}

static uint16_t matrix_work(uint16_t crc)
{
	for (int i = 0; i < SIDE; i++) {
		for (int j = 0; j < SIDE; j++) {
			int32_t sum = 0;

			for (int k = 0; k < SIDE; k++)
				sum += left[i][k] * right[k][j];
			product[i][j] = sum + (product[i][j] >> 20);
		}
	}
	for (int i = 0; i < SIDE; i++)
		crc = crc16(crc, (uint32_t)(product[i][i] >> 2));
	memset(product, 0, sizeof(product));
	return crc;
}

/* Sorts the words of the input into integers, decimals, decimals with an exponent, and others. */
static uint16_t scan_work(uint16_t crc)
{
	enum {
		START,
		SIGN,
		INTEGER,
		POINT,
		DECIMAL,
		EXPONENT,
		SCALED,
		OTHER,
		STATES
	} state = START;
	uint32_t count[STATES] = { 0 };

	for (int i = 0; i < INPUT; i++) {
		char c = input[i];
		bool digit = c >= '0' && c <= '9';

		if (c == ',') {
			count[state]++;
			state = START;
			continue;
		}
		switch (state) {
		case START:
			state = digit ? INTEGER : c == '+' || c == '-' ? SIGN : OTHER;
			break;
		case SIGN:
			state = digit ? INTEGER : OTHER;
			break;
		case INTEGER:
			state = digit ? INTEGER : c == '.' ? POINT : OTHER;
			break;
		case POINT:
		case DECIMAL:
			state = digit ? DECIMAL : c == 'e' ? EXPONENT : OTHER;
			break;
		case EXPONENT:
		case SCALED:
			state = digit ? SCALED : OTHER;
			break;
		default:
			break;
		}
	}
	for (int i = 0; i < STATES; i++)
		crc = crc16(crc, count[i]);
	return crc;
}

static bool core_setup(void)
{
	static const char words[] = "512,-38,+7.25,9.75e3,x12,1.5,-0.25e9,77,--3,6.e,4095,";
	uint64_t random = 88172645463325252;

	for (int i = 0; i < NODES; i++)
		nodes[i] = (struct node){ .key = (int16_t)(bench_random(&random) & 0x3fff),
					  .place = (int16_t)i };
	for (int i = 0; i < SIDE; i++) {
		for (int j = 0; j < SIDE; j++) {
			left[i][j] = (int16_t)(bench_random(&random) & 0xff);
			right[i][j] = (int16_t)(bench_random(&random) & 0xff);
		}
	}
	for (size_t i = 0; i < INPUT; i++)
		input[i] = words[i % (sizeof(words) - 1)];
	return true;
}

static uint64_t core_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		uint16_t crc = scan_work(matrix_work(list_work(0)));

		if (bench_check && bench_check != crc)
			return 0;
		bench_check = crc;
	}
	return ops;
}

/* --- SHA-256 --- */

#define MESSAGE 16384

static uint8_t message[MESSAGE];

/* The fractional parts of the cube roots of the first 64 primes, by integer search. */
static uint32_t round_constant[64];

static uint32_t rotate(uint32_t x, unsigned n)
{
	return x >> n | x << (32 - n);
}

static void sha256_block(uint32_t state[8], const uint8_t *bytes)
{
	uint32_t w[64], s[8];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)bytes[4 * i] << 24 | (uint32_t)bytes[4 * i + 1] << 16 |
		       (uint32_t)bytes[4 * i + 2] << 8 | bytes[4 * i + 3];
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] +
		       (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(s, state, sizeof(s));
	for (int i = 0; i < 64; i++) {
		uint32_t a = s[0], e = s[4];
		uint32_t t1 = s[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
			      ((e & s[5]) ^ (~e & s[6])) + round_constant[i] + w[i];
		uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
			      ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));

		s[7] = s[6];
		s[6] = s[5];
		s[5] = e;
		s[4] = s[3] + t1;
		s[3] = s[2];
		s[2] = s[1];
		s[1] = a;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		state[i] += s[i];
}

/* floor(2^32 * cbrt(prime)) modulo 2^32: the largest r with r^3 <= prime * 2^96 */
static uint32_t cube_root_fraction(unsigned prime)
{
	uint64_t root = 0;

	for (int bit = 34; bit >= 0; bit--) {
		uint64_t r = root | 1ull << bit;
		/* r < 2^35, so r^2 < 2^70 and r^3 < 2^105 */
		unsigned __int128 cube = (unsigned __int128)r * r * r;

		if (cube <= (unsigned __int128)prime << 96)
			root = r;
	}
	return (uint32_t)root;
}

static bool sha256_setup(void)
{
	int found = 0;

	for (unsigned n = 2; found < 64; n++) {
		bool prime = true;

		for (unsigned d = 2; d * d <= n; d++)
			prime = prime && n % d;
		if (prime)
			round_constant[found++] = cube_root_fraction(n);
	}
	bench_text((char *)message, sizeof(message));
	return true;
}

static uint64_t sha256_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		uint32_t state[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
				      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };

		for (size_t at = 0; at < MESSAGE; at += 64)
			sha256_block(state, message + at);
		bench_check = (uint64_t)state[0] << 32 | state[1];
	}
	return ops;
}

const struct workload integer_workloads[] = {
	{ "core", "integer", core_setup, core_run, 0 },
	{ "sha256", "integer", sha256_setup, sha256_run, 0 },
	{ 0 },
};
