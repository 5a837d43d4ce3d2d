/** Skips every interop test where `prepare` has said that they cannot run. */
before(function () {
  if (process.env.URBGATE_SKIP_INTEROP !== undefined) this.skip();
});
