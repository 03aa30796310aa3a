/* SQLite on a database in memory: branchy code over a heap, with hardly a system call. */
#include "workload.h"

#include <stdbool.h>
#include <stdio.h>

#include <sqlite3.h>

#define ROWS   1000 /* in the table that is read */
#define INSERT 50   /* rows in one transaction */

static sqlite3 *db;
static sqlite3_stmt *insert, *begin, *rollback, *lookup, *aggregate;

static bool step(sqlite3_stmt *statement)
{
	return sqlite3_step(statement) == SQLITE_DONE && sqlite3_reset(statement) == SQLITE_OK;
}

static bool insert_rows(int count)
{
	char name[32];

	for (int i = 0; i < count; i++) {
		int len = snprintf(name, sizeof(name), "name-%05d", i * 7919 % 10007);

		sqlite3_bind_int(insert, 1, i);
		sqlite3_bind_text(insert, 2, name, len, SQLITE_TRANSIENT);
		sqlite3_bind_double(insert, 3, i * 0.5);
		if (!step(insert))
			return false;
	}
	return true;
}

static bool prepare(const char *sql, sqlite3_stmt **statement)
{
	return sqlite3_prepare_v2(db, sql, -1, statement, NULL) == SQLITE_OK;
}

static bool setup(void)
{
	return sqlite3_open(":memory:", &db) == SQLITE_OK &&
	       sqlite3_exec(db,
			    "create table item (id integer primary key, name text, price real);"
			    "create index item_name on item (name);",
			    NULL, NULL, NULL) == SQLITE_OK &&
	       prepare("insert into item values (?, ?, ?)", &insert) && prepare("begin", &begin) &&
	       prepare("rollback", &rollback) &&
	       prepare("select id, price from item where name = ?", &lookup) &&
	       prepare("select count(*), sum(price), max(name) from item where price > ? and id % "
		       "3 = 1",
		       &aggregate);
}

static bool select_setup(void)
{
	return setup() && insert_rows(ROWS);
}

/* Rolled back, so that each operation meets an empty table. */
static uint64_t insert_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		if (!step(begin) || !insert_rows(INSERT) || !step(rollback))
			return 0;
	}
	bench_check = INSERT;
	return ops;
}

/* 20 look-ups by index and a scan */
static uint64_t select_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		int64_t sum = 0;

		for (int row = 0; row < 20; row++) {
			char name[32];
			int len =
				snprintf(name, sizeof(name), "name-%05d", row * 41 * 7919 % 10007);

			sqlite3_bind_text(lookup, 1, name, len, SQLITE_TRANSIENT);
			if (sqlite3_step(lookup) != SQLITE_ROW ||
			    sqlite3_column_int(lookup, 0) != row * 41)
				return 0;
			sqlite3_reset(lookup);
		}
		sqlite3_bind_double(aggregate, 1, 100.0);
		if (sqlite3_step(aggregate) != SQLITE_ROW)
			return 0;
		sum = sqlite3_column_int64(aggregate, 0) * 1000003 +
		      (int64_t)sqlite3_column_double(aggregate, 1);
		sqlite3_reset(aggregate);
		bench_check = (uint64_t)sum;
	}
	return ops;
}

const struct workload sqlite_workloads[] = {
	{ "sqlite_insert", "integer", setup, insert_run, 0 },
	{ "sqlite_select", "integer", select_setup, select_run, 0 },
	{ 0 },
};
