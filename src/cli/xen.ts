/**
 * `urbgate xen`: controllers and devices of Xen guests, as `xl usbctrl-attach` and `usbdev-attach`
 * would write them. A gateway that runs `serve --xen` does the rest.
 */
import { Command, InvalidArgumentError } from 'commander';
import { UserError } from '../core/errors.ts';
import type { Store } from '../xenring/platform.ts';
import { type ControllerListing, Toolstack } from '../xenring/toolstack.ts';
import { xenbusStateOf } from '../xenring/xenbus-state.ts';
import { connectStore } from '../xenring/xenstore.ts';
import { say, sayJson } from './output.ts';

/** A domain's name is looked for among so many. */
const DOMAINS_MAX = 4096;

interface StoreOptions {
  readonly store?: string;
}

export function xenCommand(): Command {
  const command = new Command('xen')
    .description('give USB controllers and exported devices to Xen guests')
    .addHelpText('after', EXAMPLES);
  for (const one of [
    addCommand(),
    removeCommand(),
    attachCommand(),
    detachCommand(),
    listCommand(),
  ])
    command.addCommand(one.option('--store <socket>', "xenstored's socket, if not the usual one"));
  return command;
}

const EXAMPLES = `
DOMAIN is a name or a number, as xl list shows them. The guest's kernel has xen-hcd, or "urbgate attach
--xen" runs in the guest.

Examples:
  urbgate serve --xen --export virtual:disk,size=64MiB     in the domain that has the devices
  urbgate xen ctrl-add guest                                a controller for the guest, then
  urbgate xen attach guest 1-1                              the disk is plugged into it
  urbgate xen list
  urbgate xen detach guest 1-1
`;

function addCommand(): Command {
  return new Command('ctrl-add')
    .description('add a USB controller to a domain')
    .argument('<domain>')
    .option('--ports <n>', 'devices that it has room for, 1 to 31', number, 8)
    .option('--usb-version <n>', '1 for low and full speed, 2 for high speed too', number, 2)
    .action(
      async (domain: string, options: StoreOptions & { ports: number; usbVersion: number }) => {
        const { ports, usbVersion } = options;
        await withToolstack(options, async (toolstack, store) => {
          const id = await domainId(store, domain);
          const controller = await toolstack.addController(id, { ports, usbVersion });
          say(`Added controller ${controller} with ${ports} ports to domain ${id}`);
        });
      },
    );
}

function removeCommand(): Command {
  return new Command('ctrl-remove')
    .description('take a controller away, with what is plugged into it')
    .argument('<domain>')
    .argument('<controller>', 'its number, as urbgate xen list shows it', number)
    .action(async (domain: string, controller: number, options: StoreOptions) => {
      await withToolstack(options, async (toolstack, store) => {
        const id = await domainId(store, domain);
        await toolstack.removeController(id, controller);
        say(`Removed controller ${controller} of domain ${id}`);
      });
    });
}

function attachCommand(): Command {
  return new Command('attach')
    .description('plug an exported device into a controller of a domain')
    .argument('<domain>')
    .argument('<busid>', 'its bus id, as urbgate status shows it')
    .option('--controller <n>', 'number of the controller', number, 0)
    .option('--port <n>', 'port of the controller (default: the first free one)', number)
    .action(
      async (
        domain: string,
        busId: string,
        options: StoreOptions & { controller: number; port?: number },
      ) => {
        const { controller } = options;
        await withToolstack(options, async (toolstack, store) => {
          const id = await domainId(store, domain);
          const port = await toolstack.attachDevice(id, controller, busId, options.port);
          say(`Attached ${busId} to port ${port} of controller ${controller} of domain ${id}`);
        });
      },
    );
}

function detachCommand(): Command {
  return new Command('detach')
    .description('unplug a device from a domain')
    .argument('<domain>')
    .argument('<busid>', 'its bus id')
    .action(async (domain: string, busId: string, options: StoreOptions) => {
      await withToolstack(options, async (toolstack, store) => {
        const id = await domainId(store, domain);
        const { controller, port } = portOf(await toolstack.list(), id, busId);
        await toolstack.detachDevice(id, controller, port);
        say(`Detached ${busId} from port ${port} of controller ${controller} of domain ${id}`);
      });
    });
}

function listCommand(): Command {
  return new Command('list')
    .description('show the controllers of all domains, and what is plugged in')
    .option('--json', 'for programs')
    .action(async (options: StoreOptions & { json?: true }) => {
      await withToolstack(options, async (toolstack) => {
        const controllers = await toolstack.list();
        if (options.json) sayJson(controllers);
        else if (controllers.length === 0) say('No domain has a controller');
        else for (const line of controllers.flatMap(listing)) say(line);
      });
    });
}

function listing({ domain, controller, usbVersion, frontState, ports }: ControllerListing) {
  const state = xenbusStateOf(`${frontState}`) ?? 'absent';
  const head = `domain ${domain}  controller ${controller}  USB ${usbVersion}  front end ${state}`;
  const plugged = ports.flatMap((busId, n) => (busId === '' ? [] : [`  port ${n + 1}  ${busId}`]));
  return [head, ...(plugged.length === 0 ? [`  ${ports.length} ports, all free`] : plugged)];
}

function portOf(controllers: readonly ControllerListing[], domain: number, busId: string) {
  for (const { domain: other, controller, ports } of controllers) {
    const port = ports.indexOf(busId) + 1;
    if (other === domain && port > 0) return { controller, port };
  }
  const there = controllers.filter((one) => one.domain === domain).flatMap(({ ports }) => ports);
  const known = there.filter((one) => one !== '').join(', ') || 'nothing';
  throw new UserError(
    `Cannot detach ${busId}: it is not plugged into domain ${domain}, plugged in is ${known}`,
  );
}

async function withToolstack(
  { store: path }: StoreOptions,
  act: (toolstack: Toolstack, store: Store) => Promise<void>,
): Promise<void> {
  const store = await connectStore(path);
  try {
    const own = Number((await store.read('domid')) ?? 0);
    await act(new Toolstack(store, own), store);
  } finally {
    store.close();
  }
}

/**
 * @throws {UserError} if there is no such domain.
 */
async function domainId(store: Store, text: string): Promise<number> {
  const domains = ((await store.list('/local/domain')) ?? []).slice(0, DOMAINS_MAX);
  if (domains.includes(text)) return Number(text);
  const names: string[] = [];
  for (const id of domains) {
    const name = await store.read(`/local/domain/${id}/name`);
    if (name === text) return Number(id);
    if (name !== undefined) names.push(`${name} (${id})`);
  }
  throw new UserError(
    `Cannot find domain ${text}: there is ${names.join(', ') || 'none with a name'}, wanted one of these`,
  );
}

function number(text: string): number {
  if (/^\d{1,5}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('wanted a number');
}
