/** Addresses, log lines and status lines: text in, text out. */
import { strict as assert } from 'node:assert';
import { isLoopback, parseAddress } from '../../src/cli/addresses.ts';
import { createLog } from '../../src/cli/log.ts';
import { statusLines } from '../../src/cli/status.ts';
import { UserError } from '../../src/core/errors.ts';
import { printable, printableJson, printableLines } from '../../src/core/printable.ts';

describe('address', () => {
  for (const [text, host, port] of [
    ['127.0.0.1:0', '127.0.0.1', 0],
    ['127.0.0.1', '127.0.0.1', 3240],
    ['[::1]:3241', '::1', 3241],
    ['[fe80::1%eth0]', 'fe80::1%eth0', 3240],
    ['my-host.example:65535', 'my-host.example', 65535],
  ] as const) {
    it(`${text} is read`, () => {
      assert.deepEqual(parseAddress('listen on', text, 0), { host, port });
    });
  }

  for (const text of [
    '',
    ':1',
    '::1',
    '::1:3240',
    '[::1',
    'a b',
    'a:',
    'a:-1',
    'a:65536',
    'a:b',
    '[x]:1',
  ]) {
    it(`"${text}" is none`, () => {
      assert.throws(() => parseAddress('listen on', text, 0), UserError);
    });
  }

  it('may have port 0 only to listen on', () => {
    assert.throws(() => parseAddress('list devices of', '127.0.0.1:0', 1), /from 1 to 65535/);
  });

  it('is a loopback address or not', () => {
    for (const host of ['127.0.0.1', '127.9.9.9', '::1', '::ffff:127.0.0.1']) {
      assert(isLoopback(host), host);
    }
    for (const host of ['0.0.0.0', '::', '192.168.1.1', '::ffff:10.0.0.1', 'fe80::1']) {
      assert(!isLoopback(host), host);
    }
  });
});

describe('log', () => {
  /** What a log writes, with the time taken off. */
  function written(verbose: boolean, use: (log: ReturnType<typeof createLog>) => void): string[] {
    const lines: string[] = [];
    use(createLog(verbose, (line) => lines.push(line) > 0));
    return lines.map((line) => line.replace(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z /, ''));
  }

  it('writes a level and a sentence', () => {
    const lines = written(false, (log) => {
      log.info('attached');
      log.warn('strange');
      log.debug('detail');
    });
    assert.deepEqual(lines, ['INFO  attached\n', 'WARN  strange\n']);
  });

  it('writes details when asked', () => {
    assert.deepEqual(
      written(true, (log) => log.debug('detail')),
      ['DEBUG detail\n'],
    );
  });

  it('keeps an error and its stack on one line', () => {
    const lines = written(false, (log) => log.error({ err: new Error('boom') }, 'Device failed'));
    assert.match(lines.join(), /^ERROR Device failed: Error: boom\\n {4}at .*\n$/);
  });

  it('does not let a name from the wire steer the terminal', () => {
    assert.equal(
      printable('a\u001b[2J\r\nb\u009bc\u2028d\u202ee é'),
      'a\\x1b[2J\\x0d\\nb\\x9bc\\u2028d\\u202ee é',
    );
    const stack = 'Error: \u009b2J\n    at a';
    assert.equal(printableLines(stack), 'Error: \\x9b2J\n    at a');
  });

  it('names no character that Unicode has for controls, line ends or directions', () => {
    for (let code = 0; code <= 0xffff; code++) {
      const character = String.fromCharCode(code);
      if (!/[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u.test(character)) continue;
      assert.match(printable(character), /^[\\ -~]+$/);
      const json = printableJson({ [character]: [character] });
      assert.match(json.replaceAll('\n', ''), /^[ -~]+$/);
      assert.deepEqual(JSON.parse(json), { [character]: [character] });
    }
  });
});

describe('lines of urbgate status', () => {
  const one = {
    busId: '1-1',
    spec: 'virtual:serial',
    deviceId: '1209:0005',
    speed: 'high',
    label: 'urbgate Serial port',
    fault: null,
  } as const;

  it('show a free device and one that is attached', () => {
    const client = {
      peer: '10.0.0.2:40000',
      since: '2026-01-31T12:00:00.000Z',
      urbs: 10,
      errors: 1,
      outstanding: 3,
    };
    const exports = [
      { ...one, client: null, total: { urbs: 0, errors: 0 } },
      { ...one, busId: '1-2', client, total: { urbs: 30, errors: 2 } },
      { ...one, client: null, fault: 'it has not closed', total: { urbs: 1, errors: 1 } },
    ];
    assert.deepEqual(statusLines({ pid: 7, listening: ['127.0.0.1:3240'], exports }), [
      'Gateway with process id 7, listening on 127.0.0.1:3240',
      '1-1  1209:0005  high speed  urbgate Serial port',
      '     virtual:serial',
      '     0 URBs, 0 failed in all',
      '     free',
      '1-2  1209:0005  high speed  urbgate Serial port',
      '     virtual:serial',
      '     30 URBs, 2 failed in all',
      '     attached by 10.0.0.2:40000 since 2026-01-31T12:00:00.000Z',
      '     10 URBs, 1 failed, 3 outstanding',
      '1-1  1209:0005  high speed  urbgate Serial port',
      '     virtual:serial',
      '     1 URBs, 1 failed in all',
      '     broken: after a bug, it has not closed; unexport it and export it again',
    ]);
  });

  it('say that nothing is exported', () => {
    const lines = statusLines({ pid: 7, listening: [], exports: [] });
    assert.equal(lines.at(-1), 'Nothing is exported');
  });
});
