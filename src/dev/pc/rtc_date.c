/*
 * Calendar arithmetic by eras of 400 years, which have 146097 days; a year is
 * taken to begin in March, so that the leap day is its last. Called by rtc.c.
 */
#include "dev/pc/rtc_date.h"

#define DAYS_PER_ERA 146097
#define EPOCH_DAY    719468 /* 1970-01-01 counted from 0000-03-01 */
#define DAY          86400

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

struct rtc_date rtc_date_from_seconds(int64_t seconds)
{
	int64_t day = floor_div(seconds, DAY), in_day = seconds - day * DAY;
	int64_t shifted = day + EPOCH_DAY, era = floor_div(shifted, DAYS_PER_ERA);
	int64_t of_era = shifted - era * DAYS_PER_ERA;
	int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
	int64_t from_march = (5 * of_year + 2) / 153;
	unsigned month = (unsigned)(from_march < 10 ? from_march + 3 : from_march - 9);

	year += era * 400 + (month <= 2);
	return (struct rtc_date){
		.year = (unsigned)(year < 0      ? 0
				   : year > 9999 ? 9999
						 : year),
		.month = month,
		.day = (unsigned)(of_year - (153 * from_march + 2) / 5 + 1),
		.hour = (unsigned)(in_day / 3600),
		.minute = (unsigned)(in_day / 60 % 60),
		.second = (unsigned)(in_day % 60),
		.weekday = (unsigned)(day + 4 - floor_div(day + 4, 7) * 7) + 1,
	};
}

int64_t rtc_date_to_seconds(const struct rtc_date *date)
{
	/* Month 0, as a careless guest may write it, is December of the year before. */
	int64_t months = (int64_t)date->year * 12 + (int64_t)date->month - 1 - 2;
	int64_t year = floor_div(months, 12), from_march = months - year * 12;
	int64_t era = floor_div(year, 400), of_era = year - era * 400;
	int64_t day = era * DAYS_PER_ERA + 365 * of_era + of_era / 4 - of_era / 100 +
		      (153 * from_march + 2) / 5 + (int64_t)date->day - 1 - EPOCH_DAY;

	return day * DAY + (int64_t)date->hour * 3600 + (int64_t)date->minute * 60 + date->second;
}
