import { strict as assert } from 'node:assert';

/** On a busy machine a process takes seconds to start. */
const WAIT_MILLISECONDS = 45_000;

/** Waits until it is so; fails after a while. */
export async function until(what: string, test: () => unknown): Promise<void> {
  const end = Date.now() + WAIT_MILLISECONDS;
  while (!(await test())) {
    assert(Date.now() < end, `waited in vain until ${what}`);
    await pause(2);
  }
}

export async function pause(milliseconds: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
}
