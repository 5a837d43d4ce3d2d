/**
 * A guest whose clock counts instructions, one a nanosecond, instead of time. What emulation makes
 * dear, and what else the machine does, then do not show: a figure is what a processor would need that
 * does one instruction a nanosecond. It can have one processor only, and is slow to boot.
 *
 * Copies look dearer than they are: `rep movsb`, with which kernel and libc copy, counts for each octet.
 */
export const INSTRUCTION_CLOCK = {
  acceleration: 'tcg,thread=single',
  processors: 1,
  bootTimeoutSeconds: 300,
} as const;

export const INSTRUCTION_CLOCK_ARGUMENTS: readonly string[] = ['-icount', 'shift=0'];
