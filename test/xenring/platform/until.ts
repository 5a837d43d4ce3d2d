import { strict as assert } from 'node:assert';

const WAIT_MILLISECONDS = 5000;

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
