/* The one function of Windows 10's bcryptprimitives.dll that Rust's standard library calls. Wine
 * has that library since its version 8.2, Debian 12 has Wine 8.0. For tests alone. */
#include <windows.h>

/* "RtlGenRandom", under the name by which advapi32.dll exports it. */
BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE buffer, SIZE_T length) {
    while (length > 0) {
        ULONG part = length < 0x10000 ? (ULONG)length : 0x10000;
        if (!SystemFunction036(buffer, part)) return FALSE;
        buffer += part;
        length -= part;
    }
    return TRUE;
}
