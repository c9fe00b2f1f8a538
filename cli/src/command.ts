/** One subcommand of `sallyport`. */
export interface Command {
  /** One line for the list of commands. */
  readonly summary: string;
  readonly help: string;
  /** @returns the exit code: 0 done, 1 failed. Throws UsageError when called wrongly (exit code 2). */
  readonly run: (commandArguments: readonly string[], io: CommandIo) => Promise<number>;
}

/** What a command touches of the process; main.ts passes the real one. */
export interface CommandIo {
  readonly write: (text: string) => void;
  readonly writeError: (text: string) => void;
  /** A person sits at the terminal: questions can be asked, lines rewritten. */
  readonly isInteractive: boolean;
}

/** The command line is wrong; the message says how to mend it. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'UsageError';
  }
}

/** Runs `parse` and turns the complaints of node:util's parseArgs into a UsageError that names the help. */
export function parsing<T>(command: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    // Node appends advice about passing the option as a positional argument, which no command takes.
    const complaint = error.message.split('. ')[0] ?? error.message;
    throw new UsageError(`${complaint}. See "npx pnpm@12 sallyport ${command} --help".`);
  }
}
