/**
 * A transfer as a promise: taken back when its time is over, after which it ends as 'unlinked', or as
 * it had ended before.
 *
 * @param submit Begins it; it ends later, never inside.
 */
export function transferWithin<P, R>(
  submit: (done: (result: R) => void) => P,
  unlink: (pending: P) => void,
  milliseconds: number,
): Promise<R> {
  return new Promise((resolve) => {
    const pending = submit((result) => {
      clearTimeout(timer);
      resolve(result);
    });
    const timer = setTimeout(() => unlink(pending), milliseconds);
  });
}
