/*
 * Runs a fuzz target over files and folders, once each, without a fuzzer: the
 * corpus as an ordinary test. Without arguments, and after them, a fixed
 * number of random inputs.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "input.h"

#define INPUT_MAX     65536
#define RANDOM_INPUTS 2000

static int run_file(const char *path)
{
	static uint8_t bytes[INPUT_MAX];
	FILE *file = fopen(path, "rb");
	size_t len;

	if (!file) {
		perror(path);
		return 1;
	}
	len = fread(bytes, 1, sizeof(bytes), file);
	fclose(file);
	LLVMFuzzerTestOneInput(bytes, len);
	return 0;
}

static int run_path(const char *path)
{
	struct dirent *entry;
	struct stat st;
	char name[4096];
	int failed = 0;
	DIR *dir;

	if (stat(path, &st) < 0) {
		perror(path);
		return 1;
	}
	if (!S_ISDIR(st.st_mode))
		return run_file(path);
	dir = opendir(path);
	if (!dir) {
		perror(path);
		return 1;
	}
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		failed |= run_file(name);
	}
	closedir(dir);
	return failed;
}

int main(int argc, char **argv)
{
	static uint8_t bytes[2048];
	uint64_t seed = 0x9e3779b97f4a7c15ull;
	int failed = 0;

	for (int i = 1; i < argc; i++)
		failed |= run_path(argv[i]);
	for (unsigned i = 0; i < RANDOM_INPUTS; i++) {
		for (unsigned j = 0; j < sizeof(bytes); j++) {
			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			bytes[j] = (uint8_t)(seed >> 56);
		}
		LLVMFuzzerTestOneInput(bytes, i % sizeof(bytes));
	}
	return failed;
}
