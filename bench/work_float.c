/* Floating-point work in C: double matrices and bodies with SSE2, and the x87 through long double.
 */
#include "workload.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* --- matmul --- */

#define SIDE 64

static double left[SIDE][SIDE], right[SIDE][SIDE], product[SIDE][SIDE];

static bool matmul_setup(void)
{
	for (int i = 0; i < SIDE; i++) {
		for (int j = 0; j < SIDE; j++) {
			left[i][j] = (i - j) / 3.0;
			right[i][j] = (i + j) / 7.0;
		}
	}
	return true;
}

static uint64_t matmul_run(uint64_t ops)
{
	for (uint64_t op = 0; op < ops; op++) {
		memset(product, 0, sizeof(product));
		for (int i = 0; i < SIDE; i++) {
			for (int k = 0; k < SIDE; k++) {
				double factor = left[i][k];

				for (int j = 0; j < SIDE; j++)
					product[i][j] += factor * right[k][j];
			}
		}
		/* The next operation may not be merged with this one. */
		__asm__ volatile("" : : "r"(product) : "memory");
	}
	bench_check = bench_digest(product, sizeof(product));
	return ops;
}

/* --- nbody --- */

#define BODIES 5
#define STEPS  200

struct body {
	double at[3], speed[3], mass;
};

static double nbody(void)
{
	struct body all[BODIES];

	for (int i = 0; i < BODIES; i++)
		all[i] = (struct body){ { i * 1.5, 3.0 - i, i * i / 8.0 },
					{ i / 7.0, 0.25, -i / 9.0 },
					1.0 / (i + 1) };
	for (int step = 0; step < STEPS; step++) {
		for (int i = 0; i < BODIES; i++) {
			for (int j = i + 1; j < BODIES; j++) {
				struct body *a = &all[i], *b = &all[j];
				double d[3], d2 = 0, pull;

				for (int c = 0; c < 3; c++) {
					d[c] = a->at[c] - b->at[c];
					d2 += d[c] * d[c];
				}
				pull = 0.001 / (d2 * sqrt(d2));
				for (int c = 0; c < 3; c++) {
					a->speed[c] -= d[c] * b->mass * pull;
					b->speed[c] += d[c] * a->mass * pull;
				}
			}
		}
		for (int i = 0; i < BODIES; i++) {
			for (int c = 0; c < 3; c++)
				all[i].at[c] += 0.001 * all[i].speed[c];
		}
	}
	return all[0].at[0] + all[1].at[1] + all[2].at[2];
}

static uint64_t nbody_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		double sum = nbody();

		bench_check = bench_digest(&sum, sizeof(sum));
	}
	return ops;
}

/* --- x87 --- */

#define TERMS 500

static uint64_t x87_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		volatile long double start = 0.375L;
		long double sum = 0, sine;
		double rounded;

		for (int k = 1; k < TERMS; k++) {
			/* A polynomial in Horner's form, a division, and some comparing. */
			long double x = start + k * 0.001953125L;
			long double y = 1 + x * (1 - x * (0.5L - x * (0.25L + x * (0.125L - x))));

			sum += (y - x * 0.75L) / (k + x) - (k & 1 ? x * y : -x * y);
			sum = fabsl(sum) > 1000 ? sum * 0.25L : sum;
		}
		/* The instruction differs between chips in the last bits, and so stays out of the
		 * digest. */
		__asm__ volatile("fsin" : "=t"(sine) : "0"(start));
		if (!(sine > 0 && sine < 1))
			return 0;
		rounded = (double)sqrtl(fabsl(sum));
		bench_check = bench_digest(&rounded, sizeof(rounded));
	}
	return ops;
}

const struct workload float_workloads[] = {
	{ "matmul", "float", matmul_setup, matmul_run, 0 },
	{ "nbody", "float", NULL, nbody_run, 0 },
	{ "x87", "float", NULL, x87_run, 0 },
	{ 0 },
};
