import { readFileSync } from 'node:fs';
import { uptime } from 'node:os';

/** How long the machine runs, and since which start: counts on while a process is away, whatever becomes of the clock. */
export interface BootTime {
  readonly bootId: string;
  /** Milliseconds, sleep included. */
  readonly elapsedMs: number;
}

const bootIdFile = '/proc/sys/kernel/random/boot_id';

/** Null where the system does not name its start, as only Linux does. */
export function readBootTime(): BootTime | null {
  try {
    return { bootId: readFileSync(bootIdFile, 'utf8').trim(), elapsedMs: Math.round(uptime() * 1000) };
  } catch {
    return null;
  }
}
