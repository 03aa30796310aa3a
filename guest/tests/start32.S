/* 32-bit start, trap stubs and level changes of the test runtime. */
#include "lib.h"

	.section .multiboot, "a"
	.align 4
	.long 0x1badb002, 0, -0x1badb002

	.text
	.globl start
start:
	cld
	mov $stack_top, %esp
	push $0
	popf
	call tables_init
	lgdt gdt_pointer
	lidt idt_pointer
	ljmp $CODE, $1f
1:	mov $DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	/* x87 and SSE on. */
	mov %cr0, %eax
	and $~0xc, %eax
	or $0x22, %eax
	mov %eax, %cr0
	mov $TSS, %eax
	ltr %ax
	call test_main
	call finish

/* int catch_enter(fn, arg): 0 if fn returned, 1 if it trapped. */
	.globl catch_enter, catch_resume
catch_enter:
	mov 4(%esp), %eax
	mov 8(%esp), %edx
	push %ebp
	push %ebx
	push %esi
	push %edi
	push catch_sp
	mov %esp, catch_sp
	push %edx
	call *%eax
	add $4, %esp
	pop catch_sp
	xor %eax, %eax
	jmp 1f
catch_resume:
	mov $DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	mov catch_sp, %esp
	pop catch_sp
	push $2
	popf
	mov $1, %eax
1:	pop %edi
	pop %esi
	pop %ebx
	pop %ebp
	ret

/* int catch_enter_user(code, arg): at CPL 3 with EAX = arg. */
	.globl catch_enter_user
catch_enter_user:
	mov 4(%esp), %eax
	mov 8(%esp), %edx
	push %ebp
	push %ebx
	push %esi
	push %edi
	push catch_sp
	mov %esp, catch_sp
	mov %esp, tss + 4
	mov $USER_DATA, %ecx
	mov %ecx, %ds
	mov %ecx, %es
	mov %ecx, %fs
	mov %ecx, %gs
	push $USER_DATA
	push $user_stack + 4096
	push user_flags
	push $USER_CODE
	push %eax
	mov %edx, %eax
	iret

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
	pusha
	push %ds
	push %es
	mov $DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	cld
	push %esp
	call trap
	add $4, %esp
	test %eax, %eax
	jz catch_resume
	.globl trap_leave
trap_leave:
	pop %es
	pop %ds
	popa
	add $8, %esp
	iret

	.data
	.align 8
gdt_pointer:
	.word 128 * 8 - 1
	.long gdt
	.globl idt_pointer
idt_pointer:
	.word 256 * 8 - 1
	.long idt
	.globl catch_sp, user_flags
catch_sp:
	.long 0
user_flags:
	.long 2

	.bss
	.align 4096
	.skip 16384
stack_top:
	.globl user_stack
user_stack:
	.skip 4096
