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
 * then zero or the functions of CPython: Py_IsInitialized, PyGILState_Ensure, PyDict_New, PyImport_GetModuleDict, PyDict_SetItemString, PyRun_StringFlags, Py_DecRef, PyErr_Clear,
 * PyGILState_Release. It does not return: the system call at its end goes back to what the thread was about. */
	.set RETURN, 0x5e55
	.set FILE_INPUT, 257	/* Py_file_input */

	.globl __seuss_renew
	.type __seuss_renew, @function
__seuss_renew:
	mov rbx, rsp
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
	je 6f
	call [rbx]		/* Py_IsInitialized */
	test eax, eax
	jz 6f
	call [rbx + 8]		/* PyGILState_Ensure */
	mov r13d, eax
	call [rbx + 16]		/* PyDict_New: names of the text's own */
	test rax, rax
	jz 5f
	mov r14, rax
	call [rbx + 24]		/* PyImport_GetModuleDict: borrowed */
	mov rdi, r14
	lea rsi, [rip + modules]
	mov rdx, rax
	call [rbx + 32]		/* PyDict_SetItemString */
	lea rdi, [rip + text]
	mov esi, FILE_INPUT
	mov rdx, r14
	mov rcx, r14
	xor r8d, r8d
	call [rbx + 40]		/* PyRun_StringFlags */
	test rax, rax
	jnz 3f
	call [rbx + 56]		/* PyErr_Clear */
	jmp 4f
3:	mov rdi, rax
	call [rbx + 48]		/* Py_DecRef */
4:	mov rdi, r14
	call [rbx + 48]
5:	mov edi, r13d
	call [rbx + 64]		/* PyGILState_Release */
6:	mov eax, RETURN
	syscall
	ud2

	.section .rodata, "a", @progbits
modules:
	.asciz "modules"
text:
	.incbin "renew.py"
	.byte 0

	.section .note.GNU-stack, "", @progbits
