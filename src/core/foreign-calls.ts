/**
 * Calls that come from koffi. An exception must not leave one: koffi gives it back to V8 with nobody to
 * catch it, and the process ends at some later collection of garbage ("Check failed:
 * AllowJavascriptExecution") with no stack that names the cause.
 */

/** Calls `work`; what it throws becomes an ordinary uncaught exception of the event loop's. */
export function guarded(work: () => void): void {
  try {
    work();
  } catch (error) {
    setImmediate(() => {
      throw error;
    });
  }
}
