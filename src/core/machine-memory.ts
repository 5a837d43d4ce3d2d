/** How much memory there is to share out. */
import { totalmem } from 'node:os';
import { CLIENT_GUARANTEED_BYTES, clientsBytesMax } from './limits.ts';
import { MemoryBudget } from './memory-budget.ts';

/** Bytes of memory that this process may use at most: the machine's, or what its control group allows. */
export function machineMemoryBytes(): number {
  const allowed = process.constrainedMemory();
  return allowed > 0 ? Math.min(allowed, totalmem()) : totalmem();
}

/** For the clients of one server. */
export function clientsMemory(): MemoryBudget {
  return new MemoryBudget(clientsBytesMax(machineMemoryBytes()), CLIENT_GUARANTEED_BYTES);
}
