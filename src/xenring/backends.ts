/** All controllers of all guests that this domain is to serve: `backend/vusb` in the store. */
import { logBug } from '../core/containment.ts';
import { Backend, type BackendOptions, isOutside } from './backend.ts';
import { Looks } from './looks.ts';
import type { StoreWatch } from './platform.ts';
import { PortMemory } from './port-memory.ts';

/** Controllers at a time; the toolstack writes them, not the guests. */
const CONTROLLERS_MAX = 256;

export class Backends {
  readonly #root: string;
  readonly #options: BackendOptions;
  readonly #backends = new Map<string, Backend>();
  readonly #exportsChanged = () => {
    for (const backend of this.#backends.values()) backend.exportsChanged();
  };
  readonly #watches: StoreWatch[] = [];
  readonly #looks = new Looks(() => this.#look());

  constructor(options: Omit<BackendOptions, 'memory'>) {
    this.#options = { ...options, memory: new PortMemory() };
    this.#root = `/local/domain/${options.platform.domain}/backend/vusb`;
  }

  /** Paths of the controllers that are served, with what is plugged in. */
  get controllers(): ReadonlyMap<string, Backend> {
    return this.#backends;
  }

  async start(): Promise<void> {
    this.#options.registry.on('added', this.#exportsChanged);
    this.#options.registry.on('released', this.#exportsChanged);
    const { store } = this.#options.platform;
    this.#watches.push(await store.watch(this.#root, () => this.#looks.ask()));
    this.#watches.push(await store.watch('@releaseDomain', () => this.#domainReleased()));
  }

  /** Guests see their devices unplugged; their controllers wait for the next gateway. */
  async stop(): Promise<void> {
    this.#looks.stop();
    this.#options.registry.off('added', this.#exportsChanged);
    this.#options.registry.off('released', this.#exportsChanged);
    for (const watch of this.#watches.splice(0)) await watch.end();
    await this.#looks.ended();
    await Promise.all([...this.#backends.values()].map((backend) => backend.stop()));
    this.#backends.clear();
  }

  #domainReleased(): void {
    for (const backend of this.#backends.values()) backend.domainReleased();
  }

  async #look(): Promise<void> {
    try {
      await this.#compare(await this.#paths());
    } catch (error) {
      const what = `Cannot look for controllers in ${this.#root}`;
      if (isOutside(error))
        this.#options.log.warn(`${what}: ${error}`, 'failed looks into the store', this.#root);
      else logBug(this.#options.log, error, what, this.#root);
    }
  }

  async #paths(): Promise<Set<string>> {
    const { store } = this.#options.platform;
    const paths = new Set<string>();
    for (const domain of (await store.list(this.#root)) ?? []) {
      for (const device of (await store.list(`${this.#root}/${domain}`)) ?? []) {
        if (paths.size < CONTROLLERS_MAX) paths.add(`${this.#root}/${domain}/${device}`);
      }
    }
    return paths;
  }

  async #compare(paths: ReadonlySet<string>): Promise<void> {
    for (const [path, backend] of this.#backends) {
      if (paths.has(path)) continue;
      this.#backends.delete(path);
      await backend.stop('at-once');
    }
    for (const path of paths) {
      if (this.#backends.has(path)) continue;
      const backend = new Backend(path, this.#options);
      this.#backends.set(path, backend);
      await backend.start();
    }
  }
}
