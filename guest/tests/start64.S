/* Start in long mode, trap stubs and level changes of the test runtime. */
#include "lib.h"

	.section .multiboot, "a"
	.align 4
	.long 0x1badb002, 0, -0x1badb002

	.text
	.code32
	.globl start
start:
	cld
	mov $stack_top, %esp
	push $0
	popf
	/* Page directories: 2 MiB pages for 4 GiB; the user alias shares no table with it. */
	mov $0x83, %eax
	mov $page_directories, %edi
1:	mov %eax, (%edi)
	movl $0, 4(%edi)
	mov %eax, %edx
	or $4, %edx
	mov %edx, 16384(%edi)
	movl $0, 16388(%edi)
	add $8, %edi
	add $0x200000, %eax
	jnc 1b
	mov $page_directories + 3, %eax
	xor %ecx, %ecx
2:	mov %eax, pdpt(, %ecx, 8)
	lea 16384 + 4(%eax), %edx
	mov %edx, pdpt_user(, %ecx, 8)
	add $4096, %eax
	inc %ecx
	cmp $4, %ecx
	jb 2b
	movl $pdpt + 3, pml4
	movl $pdpt_user + 7, pml4 + 8
	mov %cr4, %eax
	or $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	mov $pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x901, %eax /* NXE, LME, SCE */
	wrmsr
	mov %cr0, %eax
	and $~0xc, %eax
	or $0x80010022, %eax /* PG, WP, NE, MP */
	mov %eax, %cr0
	lgdt boot_gdt_pointer
	ljmp $CODE, $3f
	.code64
3:	mov $stack_top, %rsp
	call tables_init
	lgdt gdt_pointer
	lidt idt_pointer
	mov $DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	mov $TSS, %eax
	ltr %ax
	call test_main
	call finish

	.globl catch_enter, catch_resume
catch_enter:
	push %rbp
	push %rbx
	push %r12
	push %r13
	push %r14
	push %r15
	push catch_sp
	mov %rsp, catch_sp
	mov %rdi, %rax
	mov %rsi, %rdi
	sub $8, %rsp
	call *%rax
	add $8, %rsp
	pop catch_sp
	xor %eax, %eax
	jmp 1f
catch_resume:
	mov $DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov catch_sp, %rsp
	pop catch_sp
	push $2
	popf
	mov $1, %eax
1:	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbx
	pop %rbp
	ret

/* catch_enter_user(code, arg, cs, rsp): RDI = arg at CPL 3. */
	.globl catch_enter_user
catch_enter_user:
	push %rbp
	push %rbx
	push %r12
	push %r13
	push %r14
	push %r15
	push catch_sp
	mov %rsp, catch_sp
	mov %rsp, tss + 4
	push $USER_DATA
	push %rcx
	push user_flags
	push %rdx
	push %rdi
	mov %rsi, %rdi
	mov %rsi, %rax
	mov $USER_DATA, %ecx
	mov %ecx, %ds
	mov %ecx, %es
	iretq

	.globl trap_stubs
	.align 16
trap_stubs:
vector = 0
	.rept 256
	.align 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
	push $0
	.endif
	push $vector
	jmp trap_entry
	vector = vector + 1
	.endr

trap_entry:
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rdi
	mov %rsp, %rbp
	and $-16, %rsp
	call trap
	mov %rbp, %rsp
	test %eax, %eax
	jz catch_resume
	.globl trap_leave
trap_leave:
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq

	.data
	.align 8
boot_gdt:
	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdt_pointer:
	.word 23
	.quad boot_gdt
gdt_pointer:
	.word 128 * 8 - 1
	.quad gdt
	.globl idt_pointer
idt_pointer:
	.word 256 * 16 - 1
	.quad idt
	.globl catch_sp, user_flags
catch_sp:
	.quad 0
user_flags:
	.quad 2

	.bss
	.align 4096
	.globl pml4, pdpt
pml4:
	.skip 4096
pdpt:
	.skip 4096
pdpt_user:
	.skip 4096
page_directories:
	.skip 8 * 4096
	.skip 16384
stack_top:
	.globl user_stack
user_stack:
	.skip 4096
