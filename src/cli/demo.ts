/** `urbgate serve --demo`: one device of each kind, and what to type next. */
import { USBIP_PORT } from '../usbip/protocol.ts';
import type { ListenAddress } from '../usbip/server.ts';
import type { ExportStatus } from './gateway.ts';

/** Each with what a Linux client makes of it. */
const DEMO: readonly { readonly spec: string; readonly seen: string }[] = [
  { spec: 'virtual:disk,size=64MiB', seen: 'a disk: see lsblk' },
  { spec: 'virtual:keyboard,text=hello from urbgate', seen: 'types into the focused window' },
  { spec: 'virtual:serial', seen: 'a serial port that echoes: /dev/ttyACM0' },
  { spec: 'virtual:audio', seen: 'a sound card: see arecord -l' },
  { spec: 'virtual:source-sink', seen: 'a test device for modprobe usbtest' },
];

export const DEMO_SPECS: readonly string[] = DEMO.map(({ spec }) => spec);

/** Commands for the stock tools of a Linux client that reaches the gateway at this address. */
export function demoLines(exports: readonly ExportStatus[], { host, port }: ListenAddress) {
  const isAny = host === '0.0.0.0' || host === '::';
  const usbip = port === USBIP_PORT ? 'usbip' : `usbip --tcp-port ${port}`;
  const remote = `-r ${isAny ? 'HOST' : host}`;
  const attach = exports.map(({ busId, spec }) => {
    const seen = DEMO.find((one) => one.spec === spec)?.seen ?? '';
    return `  sudo ${usbip} attach ${remote} -b ${busId}   # ${seen}`;
  });
  return [
    '',
    'Type on a Linux machine that reaches this address:',
    '  sudo modprobe vhci-hcd',
    `  ${usbip} list ${remote}`,
    ...attach,
    '  usbip port',
    '  sudo usbip detach -p 00',
    'Ctrl-C here stops the gateway.',
  ];
}
