/** Why an address cannot be listened on, and what would do. */
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
