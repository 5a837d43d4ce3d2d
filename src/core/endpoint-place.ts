/** Where endpoints stand in the tables of a device. */
export const ENDPOINT_PLACES = 32;

/** Of a bEndpointAddress: its number, IN endpoints from 16 on. Endpoint 0 has one place for both ways. */
export function placeOf(address: number): number {
  return (address & 15) | ((address & 0x80) >> 3);
}
