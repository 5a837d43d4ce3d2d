/** Waits for what only looking again can tell, such as the size of a file. */

const PAUSE_MILLISECONDS = 50;

/**
 * Asks again and again until the answer is not undefined.
 *
 * @param describe - what was wanted and what is there instead, for the message when time is up
 * @returns the answer
 */
export async function until<T>(
  seconds: number,
  ask: () => T | undefined,
  describe: () => string,
): Promise<T> {
  const end = performance.now() + seconds * 1000;
  for (;;) {
    const answer = ask();
    if (answer !== undefined) return answer;
    if (performance.now() > end) throw new Error(`${describe()} after ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MILLISECONDS));
  }
}
