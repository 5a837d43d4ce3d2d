// What becomes of transfers of a device that does not answer, by urbgate's own client.
//
//   node mute-device.mjs LIBRARY PORT BUSID IN OUT
//
// A read is taken back while nothing comes; writes go on until the device takes no more, and the one
// that it does not take is taken back; then the device is left with a read outstanding. Another client
// says "reading" and reads what comes then. Prints a line of JSON: how the reads and the write ended.
const [library, port, busId, inAddress, outAddress] = process.argv.slice(2);
const { connect } = await import(library);
const server = connect({ host: '127.0.0.1', port: Number(port) });
const WRITES_MAX = 64;
const PATIENCE_MILLISECONDS = 500;

const read = { endpoint: Number(inAddress), type: 'interrupt', octets: 64 };
const write = { endpoint: Number(outAddress), type: 'interrupt', data: Buffer.alloc(64, 1) };

const first = await server.importDevice(busId);
const silent = await first.transferWithin(read, PATIENCE_MILLISECONDS);
let refused;
let writes = 0;
do refused = await first.transferWithin(write, PATIENCE_MILLISECONDS);
while (refused.status === 'ok' && ++writes < WRITES_MAX);
first.submit(read, () => {});
await new Promise((resolve) => setTimeout(resolve, PATIENCE_MILLISECONDS));
await first.close();

let second;
for (;;) {
  second = await server.importDevice(busId).catch((error) => {
    if (!/another client has it|busy/i.test(error.message)) throw error;
  });
  if (second !== undefined) break;
  await new Promise((resolve) => setTimeout(resolve, 50));
}
const answer = second.transfer(read);
console.log('reading');
const { status, data } = await answer;
await second.close();
console.log(
  JSON.stringify({
    silent: silent.status,
    refused: refused.status,
    answer: status,
    data: `${data}`,
  }),
);
