/*
 * What the machine tells an ACPI guest of itself beyond the static tables
 * (acpi.c): the PCI host with its windows and interrupt pins, the legacy
 * devices, and how to switch off. Compiled by iasl when Insula is built.
 *
 * The addresses repeat board_map.h. What differs from machine to machine is in
 * an SSDT that acpi.c writes: PRTA, the interrupt pins there are, and M64B and
 * M64E, first and last byte of the 64-bit PCI window, which lies above RAM.
 */
DefinitionBlock ("", "DSDT", 2, "INSULA", "BOARD", 1)
{
	Name (\_S5, Package (4) { 5, 5, 0, 0 }) /* SLP_TYP of "off", as acpi_pm decodes it */

	/* 0: 8259, 1: APIC. The guest says so before it asks for _PRT. */
	Name (PICF, 0)
	Method (\_PIC, 1)
	{
		PICF = Arg0
	}

	/* From the SSDT that acpi.c writes for each machine. */
	External (\_SB.PCI0.PRTA, PkgObj)
	External (\_SB.PCI0.M64B, IntObj)
	External (\_SB.PCI0.M64E, IntObj)

	Scope (\_GPE)
	{
		Method (_E05)
		{
			Notify (\_SB.VGEN, 0x80)
		}
	}

	Scope (\_SB)
	{
		/* What no driver owns and nobody may place a BAR over. */
		Device (MBRD)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, 0xB0000000, 0x10000000) /* ECAM */
				Memory32Fixed (ReadWrite, 0xFEC00000, 0x00001000) /* IOAPIC */
				Memory32Fixed (ReadWrite, 0xFEE00000, 0x00100000) /* local APICs */
				IO (Decode16, 0x0600, 0x0600, 0x01, 0x80)         /* ACPI PM block */
				IO (Decode16, 0x0CF9, 0x0CF9, 0x01, 0x01)         /* reset register */
			})
		}

		/* 16 bytes that change when the machine goes on as another (vmgenid.h); then _E05. */
		Device (VGEN)
		{
			Name (_HID, "INSL0001")
			Name (_CID, "VM_Gen_Counter")
			Name (_DDN, "VM_Gen_Counter")
			Name (ADDR, Package (2) { 0x000F8000, 0 })
		}

		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08"))
			Name (_CID, EisaId ("PNP0A03"))
			Name (_SEG, 0)
			Name (_BBN, 0)
			Name (_UID, 0)

			Name (RES, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
					0, 0, 255, 0, 256)
				IO (Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, 0x0000, 0x0CF7, 0, 0x0CF8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, 0x0D00, 0xFFFF, 0, 0xF300)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0, 0xC0000000, 0xFEBFFFFF, 0, 0x3EC00000)
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite,
					0, 0x200000000, 0x5FFFFFFFF, 0, 0x400000000, , , W64)
			})
			Method (_CRS, 0, Serialized)
			{
				CreateQWordField (RES, ^W64._MIN, WMIN)
				CreateQWordField (RES, ^W64._MAX, WMAX)
				CreateQWordField (RES, ^W64._LEN, WLEN)
				WMIN = M64B
				WMAX = M64E
				WLEN = (M64E - M64B) + 1
				Return (RES)
			}

			/* All features the guest asks for are its own to use: there is no firmware that shares them. */
			Method (_OSC, 4)
			{
				CreateDWordField (Arg3, 0, STAT)
				If (Arg0 != ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766"))
				{
					STAT |= 4
				}
				Return (Arg3)
			}

			/*
			 * With an IOAPIC in use, a table of constants: the guest asks once for every device, and a
			 * loop in AML takes it longer than the rest of the boot's ACPI work. Without, pin p of slot
			 * s is wired to PIRQ (s + p) mod 8, whose link device says to which 8259 input it leads.
			 */
			Name (PINS, Package (128) {})
			Method (_PRT, 0, Serialized)
			{
				If (PICF)
				{
					Return (PRTA)
				}
				Local0 = 0
				While (Local0 < 128)
				{
					Local1 = ((Local0 >> 2) + (Local0 & 3)) & 7
					If (Local1 == 0)
					{
						PINS [Local0] = Package (4) { 0, 0, LNKA, 0 }
					}
					ElseIf (Local1 == 1)
					{
						PINS [Local0] = Package (4) { 0, 0, LNKB, 0 }
					}
					ElseIf (Local1 == 2)
					{
						PINS [Local0] = Package (4) { 0, 0, LNKC, 0 }
					}
					ElseIf (Local1 == 3)
					{
						PINS [Local0] = Package (4) { 0, 0, LNKD, 0 }
					}
					ElseIf (Local1 == 4)
					{
						PINS [Local0] = Package (4) { 0, 0, LNKE, 0 }
					}
					ElseIf (Local1 == 5)
					{
						PINS [Local0] = Package (4) { 0, 0, LNKF, 0 }
					}
					ElseIf (Local1 == 6)
					{
						PINS [Local0] = Package (4) { 0, 0, LNKG, 0 }
					}
					Else
					{
						PINS [Local0] = Package (4) { 0, 0, LNKH, 0 }
					}
					DerefOf (PINS [Local0]) [0] = ((Local0 >> 2) << 16) | 0xFFFF
					DerefOf (PINS [Local0]) [1] = Local0 & 3
					Local0++
				}
				Return (PINS)
			}

			Device (LPC)
			{
				Name (_ADR, 0x001F0000)

				OperationRegion (ROUT, PCI_Config, 0x60, 0x0C)
				Field (ROUT, ByteAcc, NoLock, Preserve)
				{
					PRQA, 8, PRQB, 8, PRQC, 8, PRQD, 8,
					Offset (8),
					PRQE, 8, PRQF, 8, PRQG, 8, PRQH, 8
				}

				Device (RTC)
				{
					Name (_HID, EisaId ("PNP0B00"))
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x0070, 0x0070, 0x01, 0x08)
						IRQNoFlags () { 8 }
					})
				}

				Device (KBD)
				{
					Name (_HID, EisaId ("PNP0303"))
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x0060, 0x0060, 0x01, 0x01)
						IO (Decode16, 0x0064, 0x0064, 0x01, 0x01)
						IRQNoFlags () { 1 }
					})
				}

				Device (MOU)
				{
					Name (_HID, EisaId ("PNP0F13"))
					Name (_CRS, ResourceTemplate ()
					{
						IRQNoFlags () { 12 }
					})
				}

				Device (COM1)
				{
					Name (_HID, EisaId ("PNP0501"))
					Name (_UID, 1)
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08)
						IRQNoFlags () { 4 }
					})
				}
			}
		}

		/* Links: PIRQx_ROUT of the LPC bridge, bit 7 set for "not routed to the 8259". */
		Name (LPRS, ResourceTemplate ()
		{
			Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) { 5, 10, 11 }
		})
		Method (LSTA, 1)
		{
			If (Arg0 & 0x80)
			{
				Return (0x09)
			}
			Return (0x0B)
		}
		Name (LRES, ResourceTemplate ()
		{
			Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) { 0 }
		})
		Method (LCRS, 1, Serialized)
		{
			CreateDWordField (LRES, 5, IRQN)
			IRQN = 0
			If (!(Arg0 & 0x80))
			{
				IRQN = Arg0 & 0x0F
			}
			Return (LRES)
		}
		Device (LNKA)
		{
			Name (_HID, EisaId ("PNP0C0F"))
			Name (_UID, 1)
			Method (_STA) { Return (LSTA (^^PCI0.LPC.PRQA)) }
			Method (_DIS) { ^^PCI0.LPC.PRQA |= 0x80 }
			Method (_CRS) { Return (LCRS (^^PCI0.LPC.PRQA)) }
			Method (_PRS) { Return (LPRS) }
			Method (_SRS, 1)
			{
				CreateDWordField (Arg0, 5, IRQN)
				^^PCI0.LPC.PRQA = IRQN
			}
		}
		Device (LNKB)
		{
			Name (_HID, EisaId ("PNP0C0F"))
			Name (_UID, 2)
			Method (_STA) { Return (LSTA (^^PCI0.LPC.PRQB)) }
			Method (_DIS) { ^^PCI0.LPC.PRQB |= 0x80 }
			Method (_CRS) { Return (LCRS (^^PCI0.LPC.PRQB)) }
			Method (_PRS) { Return (LPRS) }
			Method (_SRS, 1)
			{
				CreateDWordField (Arg0, 5, IRQN)
				^^PCI0.LPC.PRQB = IRQN
			}
		}
		Device (LNKC)
		{
			Name (_HID, EisaId ("PNP0C0F"))
			Name (_UID, 3)
			Method (_STA) { Return (LSTA (^^PCI0.LPC.PRQC)) }
			Method (_DIS) { ^^PCI0.LPC.PRQC |= 0x80 }
			Method (_CRS) { Return (LCRS (^^PCI0.LPC.PRQC)) }
			Method (_PRS) { Return (LPRS) }
			Method (_SRS, 1)
			{
				CreateDWordField (Arg0, 5, IRQN)
				^^PCI0.LPC.PRQC = IRQN
			}
		}
		Device (LNKD)
		{
			Name (_HID, EisaId ("PNP0C0F"))
			Name (_UID, 4)
			Method (_STA) { Return (LSTA (^^PCI0.LPC.PRQD)) }
			Method (_DIS) { ^^PCI0.LPC.PRQD |= 0x80 }
			Method (_CRS) { Return (LCRS (^^PCI0.LPC.PRQD)) }
			Method (_PRS) { Return (LPRS) }
			Method (_SRS, 1)
			{
				CreateDWordField (Arg0, 5, IRQN)
				^^PCI0.LPC.PRQD = IRQN
			}
		}
		Device (LNKE)
		{
			Name (_HID, EisaId ("PNP0C0F"))
			Name (_UID, 5)
			Method (_STA) { Return (LSTA (^^PCI0.LPC.PRQE)) }
			Method (_DIS) { ^^PCI0.LPC.PRQE |= 0x80 }
			Method (_CRS) { Return (LCRS (^^PCI0.LPC.PRQE)) }
			Method (_PRS) { Return (LPRS) }
			Method (_SRS, 1)
			{
				CreateDWordField (Arg0, 5, IRQN)
				^^PCI0.LPC.PRQE = IRQN
			}
		}
		Device (LNKF)
		{
			Name (_HID, EisaId ("PNP0C0F"))
			Name (_UID, 6)
			Method (_STA) { Return (LSTA (^^PCI0.LPC.PRQF)) }
			Method (_DIS) { ^^PCI0.LPC.PRQF |= 0x80 }
			Method (_CRS) { Return (LCRS (^^PCI0.LPC.PRQF)) }
			Method (_PRS) { Return (LPRS) }
			Method (_SRS, 1)
			{
				CreateDWordField (Arg0, 5, IRQN)
				^^PCI0.LPC.PRQF = IRQN
			}
		}
		Device (LNKG)
		{
			Name (_HID, EisaId ("PNP0C0F"))
			Name (_UID, 7)
			Method (_STA) { Return (LSTA (^^PCI0.LPC.PRQG)) }
			Method (_DIS) { ^^PCI0.LPC.PRQG |= 0x80 }
			Method (_CRS) { Return (LCRS (^^PCI0.LPC.PRQG)) }
			Method (_PRS) { Return (LPRS) }
			Method (_SRS, 1)
			{
				CreateDWordField (Arg0, 5, IRQN)
				^^PCI0.LPC.PRQG = IRQN
			}
		}
		Device (LNKH)
		{
			Name (_HID, EisaId ("PNP0C0F"))
			Name (_UID, 8)
			Method (_STA) { Return (LSTA (^^PCI0.LPC.PRQH)) }
			Method (_DIS) { ^^PCI0.LPC.PRQH |= 0x80 }
			Method (_CRS) { Return (LCRS (^^PCI0.LPC.PRQH)) }
			Method (_PRS) { Return (LPRS) }
			Method (_SRS, 1)
			{
				CreateDWordField (Arg0, 5, IRQN)
				^^PCI0.LPC.PRQH = IRQN
			}
		}

		Device (HPET)
		{
			Name (_HID, EisaId ("PNP0103"))
			Name (_UID, 0)
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadOnly, 0xFED00000, 0x00000400)
			})
		}
	}
}
