/* Where everything is: addresses, ports and interrupt inputs of the machine. dsdt.asl repeats some
 * of them. */
#ifndef INSULA_BOARD_BOARD_MAP_H
#define INSULA_BOARD_BOARD_MAP_H

/* Physical memory */
#define MAP_EBDA_BASE    0x9fc00ull
#define MAP_EBDA_LEN     0x400ull
#define MAP_VGA_BASE     0xa0000ull
#define MAP_TABLES_BASE  0xe0000ull /* RSDP and ACPI tables */
#define MAP_TABLES_LEN   0x10000ull
#define MAP_MPTABLE_BASE 0xf0000ull
#define MAP_MPTABLE_LEN  0x8000ull
#define MAP_VMGENID      0xf8000ull
#define MAP_FIRMWARE_END 0x100000ull
#define MAP_ECAM_BASE    0xb0000000ull
#define MAP_ECAM_LEN     0x10000000ull
#define MAP_PCI_BASE     0xc0000000ull
#define MAP_PCI_LEN      0x3ec00000ull
#define MAP_IOAPIC_BASE  0xfec00000ull
#define MAP_HPET_BASE    0xfed00000ull
#define MAP_LAPIC_BASE   0xfee00000ull
#define MAP_PCI64_ALIGN \
	0x200000000ull /* the 64-bit window begins at the first multiple above RAM */
#define MAP_PCI64_LEN 0x400000000ull

/* Ports */
#define MAP_PORT_PM         0x600 /* ACPI PM1 event, control, timer */
#define MAP_PORT_PM_TIMER   0x608
#define MAP_PORT_RESET      0xcf9
#define MAP_PORT_COM1       0x3f8
#define MAP_PORT_DEBUG_EXIT 0xf4
#define MAP_PORT_PCI_IO     0xc000
#define MAP_PCI_IO_LEN      0x4000

#define MAP_GPE_VMGENID 5 /* general-purpose event: the method _E05 */

/* Interrupt inputs of the ISA devices: 8259 input, and IOAPIC input but for the PIT's. */
#define MAP_IRQ_PIT      0 /* IOAPIC input 2 */
#define MAP_IRQ_KEYBOARD 1
#define MAP_IRQ_COM1     4
#define MAP_IRQ_RTC      8
#define MAP_IRQ_SCI      9
#define MAP_IRQ_MOUSE    12
#define MAP_GSI_PIT      2

#endif
