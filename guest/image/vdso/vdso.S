/* The vDSO (vdso(7)): clocks without a system call.
 *
 * It reads the VMM's clock page where the library OS maps it (seuss_abi::layout::DIRECT_BASE + comm::CLOCK_OFFSET), since everything
 * runs at CPL 3. The arithmetic is seuss_abi::comm::Clock's; the shift is below 64. What it does not know goes to the system call. */

	.intel_syntax noprefix
	.set CLOCK, 0x600000001000
	.set SHIFT, 4
	.set MULT, 8
	.set BASE_TSC, 16
	.set BASE_MONOTONIC, 24
	.set REALTIME_OFFSET, 32
	.set BOOTTIME_OFFSET, 40

	.text

/* edi = clock (0 or 5 realtime, 7 boottime, else monotonic); returns nanoseconds in rax, changes rcx, rdx, r8, r9. */
	.type now, @function
now:
	movabs r8, CLOCK
1:	mov r9d, [r8]
	test r9d, 1
	jnz 3f
	lfence
	rdtsc
	shl rdx, 32
	or rax, rdx
	sub rax, [r8 + BASE_TSC]
	jae 2f
	xor eax, eax
2:	mul qword ptr [r8 + MULT]
	mov ecx, [r8 + SHIFT]
	shrd rax, rdx, cl
	add rax, [r8 + BASE_MONOTONIC]
	cmp edi, 7
	je 5f
	test edi, edi
	jz 4f
	cmp edi, 5
	je 4f
6:	cmp [r8], r9d
	jne 1b
	ret
3:	pause
	jmp 1b
4:	add rax, [r8 + REALTIME_OFFSET]
	jmp 6b
5:	add rax, [r8 + BOOTTIME_OFFSET]
	jmp 6b

	.globl __vdso_clock_gettime
	.type __vdso_clock_gettime, @function
__vdso_clock_gettime:
	cmp edi, 7
	ja 1f
	mov eax, 0xf3		/* clocks 0, 1, 4, 5, 6, 7 */
	bt eax, edi
	jnc 1f
	call now
	xor edx, edx
	mov ecx, 1000000000
	div rcx
	mov [rsi], rax
	mov [rsi + 8], rdx
	xor eax, eax
	ret
1:	mov eax, 228
	syscall
	ret

	.globl __vdso_gettimeofday
	.type __vdso_gettimeofday, @function
__vdso_gettimeofday:
	mov r10, rsi
	mov r11, rdi
	test rdi, rdi
	jz 1f
	xor edi, edi
	call now
	xor edx, edx
	mov ecx, 1000000000
	div rcx
	mov [r11], rax
	mov rax, rdx
	xor edx, edx
	mov ecx, 1000
	div rcx
	mov [r11 + 8], rax
1:	test r10, r10
	jz 2f
	mov qword ptr [r10], 0
2:	xor eax, eax
	ret

	.globl __vdso_time
	.type __vdso_time, @function
__vdso_time:
	mov r10, rdi
	xor edi, edi
	call now
	xor edx, edx
	mov ecx, 1000000000
	div rcx
	test r10, r10
	jz 1f
	mov [r10], rax
1:	ret

	.globl __vdso_getcpu
	.type __vdso_getcpu, @function
__vdso_getcpu:
	xor eax, eax
	test rdi, rdi
	jz 1f
	mov [rdi], eax
1:	test rsi, rsi
	jz 2f
	mov [rsi], eax
2:	ret

	.globl __vdso_clock_getres
	.type __vdso_clock_getres, @function
__vdso_clock_getres:
	mov eax, 229
	syscall
	ret

/* Calls that the library OS makes in a clone (kernel/src/kernel/renew.rs). rsp points at a table: a count, so many functions with three arguments each, and
 * then zero or the functions of CPython, in the order of PYTHON in kernel/src/kernel/renew/plan.rs, a code object or zero, and whether it is only to be made. It does not return: the system call at its
 * end goes back to what the thread was about; rdi is then the code object that was made. */
	.set RETURN, 0x5e55
	.set FILE_INPUT, 257	/* Py_file_input */
	.set IS_INITIALIZED, 0
	.set ENSURE, 8
	.set NEW_DICT, 16
	.set MODULES, 24
	.set BUILTINS, 32
	.set SET_ITEM, 40
	.set COMPILE, 48
	.set EVALUATE, 56
	.set RELEASE_OBJECT, 64
	.set CLEAR_ERROR, 72
	.set RELEASE, 80
	.set CODE, 88
	.set ONLY_COMPILE, 96

	.globl __seuss_renew
	.type __seuss_renew, @function
__seuss_renew:
	mov rbx, rsp
	xor r15d, r15d
	mov r12, [rbx]
	add rbx, 8
1:	test r12, r12
	jz 2f
	mov rdi, [rbx + 8]
	mov rsi, [rbx + 16]
	mov rdx, [rbx + 24]
	xor eax, eax
	call [rbx]
	add rbx, 32
	dec r12
	jmp 1b
2:	cmp qword ptr [rbx], 0
	je 9f
	call [rbx + IS_INITIALIZED]
	test eax, eax
	jz 9f
	call [rbx + ENSURE]
	mov r13d, eax
	mov r12, [rbx + CODE]
	test r12, r12
	jnz 3f
	lea rdi, [rip + text]
	lea rsi, [rip + name]
	mov edx, FILE_INPUT
	call [rbx + COMPILE]
	mov r12, rax
	mov r15, rax
	test rax, rax
	jz 7f
	cmp qword ptr [rbx + ONLY_COMPILE], 0
	jne 8f
3:	call [rbx + NEW_DICT]	/* names of the text's own */
	test rax, rax
	jz 7f
	mov r14, rax
	call [rbx + MODULES]	/* borrowed */
	lea rsi, [rip + modules]
	call add
	call [rbx + BUILTINS]	/* borrowed */
	lea rsi, [rip + builtins]
	call add
	mov rdi, r12
	mov rsi, r14
	mov rdx, r14
	call [rbx + EVALUATE]
	test rax, rax
	jnz 4f
	call [rbx + CLEAR_ERROR]
	jmp 5f
4:	mov rdi, rax
	call [rbx + RELEASE_OBJECT]
5:	mov rdi, r14
	call [rbx + RELEASE_OBJECT]
	test r15, r15
	jz 8f
	mov rdi, r15
	xor r15d, r15d
	call [rbx + RELEASE_OBJECT]
	jmp 8f
7:	call [rbx + CLEAR_ERROR]
8:	mov edi, r13d
	call [rbx + RELEASE]
9:	mov rdi, r15
	mov eax, RETURN
	syscall
	ud2

/* The object rax into the dictionary r14 under the name rsi. */
	.type add, @function
add:
	mov rdi, r14
	mov rdx, rax
	sub rsp, 8
	call [rbx + SET_ITEM]
	add rsp, 8
	ret

	.section .rodata, "a", @progbits
modules:
	.asciz "modules"
builtins:
	.asciz "__builtins__"
name:
	.asciz "<seuss>"
text:
	.incbin "renew.py"
	.byte 0

	.section .note.GNU-stack, "", @progbits
