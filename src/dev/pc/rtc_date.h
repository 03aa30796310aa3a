/*
 * Seconds since 1970 to date and back (proleptic Gregorian), for any value a
 * guest may have written. Pure.
 */
#ifndef INSULA_DEV_PC_RTC_DATE_H
#define INSULA_DEV_PC_RTC_DATE_H

#include <stdint.h>

struct rtc_date {
	unsigned year;       /* 0..9999 */
	unsigned month, day; /* from 1 */
	unsigned hour, minute, second;
	unsigned weekday; /* 1 is Sunday; not read by rtc_date_to_seconds */
};

struct rtc_date rtc_date_from_seconds(int64_t seconds);
/* Fields out of range carry over. */
int64_t rtc_date_to_seconds(const struct rtc_date *date);

#endif
