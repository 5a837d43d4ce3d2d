/** Where a server listens or a peer is, in words; and why a server cannot listen there. */

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

/** HOST:PORT, with brackets around an IPv6 address. */
export function formatAddress({ host, port }: ListenAddress): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

export function whyNotListening(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case 'EADDRINUSE':
      return 'the port is in use, wanted a free one (another gateway, or usbipd?)';
    case 'EADDRNOTAVAIL':
      return 'the address is not one of this machine, wanted a local one';
    case 'EACCES':
      return 'permission denied, wanted a port of 1024 or more';
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return 'the host name is unknown, wanted an address of this machine';
    default:
      return error.message;
  }
}
