/**
 * A promise that is rejected with nobody waiting for it ends a process, but mocha passes over it
 * (12.0): its handler hands it on to others, of which there are none. Here is one: the test that is
 * running fails.
 */
process.on('unhandledRejection', (reason) => {
  throw reason;
});
