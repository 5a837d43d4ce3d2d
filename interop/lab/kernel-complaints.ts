/** Finds in a kernel's log what speaks of a defect in the kernel or of one that a peer provoked. */

const DEFECTS = new RegExp(
  [
    'BUG:',
    '\\bOops\\b',
    'general protection fault',
    'unable to handle',
    'WARNING: CPU',
    'blocked for more than',
    'refcount_t:',
    'list_(?:add|del) corruption',
    'KASAN|UBSAN',
    'Kernel panic',
    'soft lockup|hard LOCKUP',
    'rcu.*(?:stall|starved)',
    'scheduling while atomic',
    'Bad page|double free|stack-protector',
    'sysfs: cannot create duplicate',
  ].join('|'),
);

/** A log line together with those that follow it, up to where the next report or the trace ends. */
const CONTEXT_LINES = 12;

/** @returns each complaint with some lines of context; empty for a healthy log */
export function findComplaints(log: string): string[] {
  const lines = log.split('\n');
  const found: string[] = [];
  for (let at = 0; at < lines.length; at++) {
    if (!DEFECTS.test(lines[at] ?? '')) continue;
    found.push(lines.slice(at, at + CONTEXT_LINES).join('\n'));
    at += CONTEXT_LINES - 1;
  }
  return found;
}
