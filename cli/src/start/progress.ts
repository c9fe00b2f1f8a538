import type { Clock } from '@sallyport/schema/platform';

/** Where lines for the person at the terminal go. */
export interface Terminal {
  readonly write: (text: string) => void;
  /** A terminal that can rewrite its last line; false for files and pipes. */
  readonly isInteractive: boolean;
}

/** Runs one step and shows its name and how long it took. */
export type Step = <T>(name: string, work: () => Promise<T>) => Promise<T>;

export function createStep(terminal: Terminal, clock: Clock): Step {
  return async (name, work) => {
    const startedAt = clock.monotonic();
    if (terminal.isInteractive) terminal.write(`  … ${name}`);
    const back = terminal.isInteractive ? '\r' : '';
    try {
      const result = await work();
      const seconds = ((clock.monotonic() - startedAt) / 1000).toFixed(1);
      terminal.write(`${back}  ✓ ${name.padEnd(58)} ${seconds.padStart(5)} s\n`);
      return result;
    } catch (error) {
      terminal.write(`${back}  ✗ ${name}\n`);
      throw error;
    }
  };
}
