//! Kernels with the CPU kernel ABI: rdi = bufs, rsi = sizes, rdx = lo, rcx = hi, r8 = scratch.

use std::arch::global_asm;

global_asm!(
    ".globl test_kernels_start",
    "test_kernels_start:",
    // bufs[1][i] = bufs[0][i] + bufs[0][i], f32
    ".globl test_double",
    "test_double:",
    "mov rax, [rdi]",
    "mov r9, [rdi + 8]",
    "2: cmp rdx, rcx",
    "jge 3f",
    "movss xmm0, [rax + rdx * 4]",
    "addss xmm0, xmm0",
    "movss [r9 + rdx * 4], xmm0",
    "inc rdx",
    "jmp 2b",
    "3: xor eax, eax",
    "ret",
    // bufs[2][i] = bufs[1][bufs[0][i]], where the index must be below sizes[0]
    ".globl test_gather",
    "test_gather:",
    "mov rax, [rdi]",
    "mov r9, [rdi + 8]",
    "mov r10, [rdi + 16]",
    "2: cmp rdx, rcx",
    "jge 3f",
    "mov r11, [rax + rdx * 8]",
    "cmp r11, [rsi]",
    "jae 4f",
    "movss xmm0, [r9 + r11 * 4]",
    "movss [r10 + rdx * 4], xmm0",
    "inc rdx",
    "jmp 2b",
    "3: xor eax, eax",
    "ret",
    // The note on the bad index, at the start of the scratch memory.
    "4: lea rax, [rax + rdx * 8]",
    "mov [r8 + 8], rax",
    "mov [r8 + 16], r11",
    "mov rax, [rsi]",
    "mov [r8 + 24], rax",
    "movabs rax, 0x7865646e69646162",
    "mov [r8], rax",
    "mov eax, 1",
    "ret",
    // bufs[0][i] = i, parked in scratch memory meanwhile
    ".globl test_scratch_echo",
    "test_scratch_echo:",
    "mov rax, [rdi]",
    "2: cmp rdx, rcx",
    "jge 3f",
    "mov [r8], rdx",
    "mov r9d, 200",
    "5: dec r9d",
    "jnz 5b",
    "mov r10, [r8]",
    "mov [rax + rdx * 8], r10",
    "inc rdx",
    "jmp 2b",
    "3: xor eax, eax",
    "ret",
    // *bufs[0] = sizes[0]
    ".globl test_set_i64",
    "test_set_i64:",
    "mov rax, [rdi]",
    "mov r9, [rsi]",
    "mov [rax], r9",
    "xor eax, eax",
    "ret",
    // *bufs[0] += *bufs[1]
    ".globl test_add_i64",
    "test_add_i64:",
    "mov rax, [rdi]",
    "mov r9, [rdi + 8]",
    "mov r9, [r9]",
    "add [rax], r9",
    "xor eax, eax",
    "ret",
    // *bufs[0] += 1; the byte *bufs[1] = *bufs[0] < sizes[0]
    ".globl test_count",
    "test_count:",
    "mov rax, [rdi]",
    "mov r9, [rdi + 8]",
    "inc qword ptr [rax]",
    "mov r10, [rsi]",
    "cmp [rax], r10",
    "setl [r9]",
    "xor eax, eax",
    "ret",
    ".globl test_fails",
    "test_fails:",
    "mov eax, 7",
    "ret",
    // *bufs[0] = **word, where the word stands 0x2000 bytes after the start of the code
    ".globl test_relocated",
    "test_relocated:",
    "mov rax, [rdi]",
    "mov r9, [rip + test_kernels_start + 0x2000]",
    "mov r9, [r9]",
    "mov [rax], r9",
    "xor eax, eax",
    "ret",
    ".globl test_kernels_end",
    "test_kernels_end:",
);

unsafe extern "C" {
    fn test_kernels_start();
    fn test_kernels_end();
    fn test_double();
    fn test_gather();
    fn test_scratch_echo();
    fn test_set_i64();
    fn test_add_i64();
    fn test_count();
    fn test_fails();
    fn test_relocated();
}

/// Bytes from the start of the code to the word that `relocated` reads.
pub const DATA_AFTER_CODE: u64 = 0x2000;

/// The name and address in this process of every kernel.
pub const TABLE: [(&str, unsafe extern "C" fn()); 8] = [
    ("double", test_double),
    ("gather", test_gather),
    ("scratch_echo", test_scratch_echo),
    ("set_i64", test_set_i64),
    ("add_i64", test_add_i64),
    ("count", test_count),
    ("fails", test_fails),
    ("relocated", test_relocated),
];

/// The machine code, which depends on its own position alone.
pub fn code() -> &'static [u8] {
    let (start, end) = (test_kernels_start as *const u8, test_kernels_end as *const u8);
    // SAFETY: the assembler put both labels around the kernels above.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// The offset of every kernel in [`code`].
pub fn offsets() -> impl Iterator<Item = (&'static str, u64)> {
    let start = test_kernels_start as *const u8;
    TABLE.iter().map(move |(name, f)| (*name, (*f as *const u8).addr().wrapping_sub(start.addr()) as u64))
}
