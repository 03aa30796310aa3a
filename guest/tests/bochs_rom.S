/* A ROM that copies the image behind it to 1 MiB and starts it: Bochs loads no multiboot kernels. */
	.code16
	.text
	.globl rom
rom:
	/* Patched by the runner: length of the image, its entry point. The image lies at the start of the ROM. */
image_size:
	.long 0
image_entry:
	.long 0
rom_base:
	.long 0
	.align 8
rom_gdt:
	.quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
rom_gdt_pointer:
	.word 23
	.long rom_gdt + 0xffff0000
boot:
	cli
	cld
	lgdtl %cs:rom_gdt_pointer
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $8, $1f + 0xffff0000
	.code32
1:	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	/* Eight data bits on COM1, which firmware would have set. */
	mov $0x3fb, %dx
	mov $3, %al
	out %al, %dx
	mov rom_base + 0xffff0000, %esi
	mov $0x100000, %edi
	mov image_size + 0xffff0000, %ecx
	rep movsb
	mov $0x2badb002, %eax
	jmp *image_entry + 0xffff0000
	.org 0xfff0
	.code16
	jmp boot
	.org 0x10000
