/** Bounds a wait, and keeps the process alive for as long as it lasts. */

/**
 * @param describe - the message of the error if the time is up
 * @returns what the promise resolves to
 */
export async function within<T>(
  seconds: number,
  promise: Promise<T>,
  describe: () => string,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(describe())), seconds * 1000);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
