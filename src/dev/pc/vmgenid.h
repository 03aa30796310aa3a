/*
 * The virtual machine generation ID (Microsoft, "Virtual Machine Generation ID"):
 * 16 bytes in guest memory that are others whenever the machine goes on from a
 * moment that may be another machine's too, and a notification. A guest that
 * knows the device then seeds its random generator anew.
 *
 * Its bytes live in guest RAM, and are saved with it.
 */
#ifndef INSULA_DEV_PC_VMGENID_H
#define INSULA_DEV_PC_VMGENID_H

#include "mem/ram.h"

#define VMGENID_LEN 16

/* New bytes at gpa, of which the guest's ACPI tables tell. Vcpus are stopped. 0 or -errno. */
int vmgenid_renew(struct ram *ram, gpa_t gpa) __attribute__((warn_unused_result));

#endif
