/**
 * How V8 keeps memory in a node (decision 0133). A configuration is parsed into what lives as long as it does: under V8's
 * own settings, made for programs whose objects die young, each collection meanwhile stops the requests several times as
 * long, and the process takes 100 MiB more.
 */
const v8Options = ['--max-semi-space-size=8', '--heap-growing-percent=30'] as const;

/** Options for Node.js with those above, but for what is given already. */
export function withV8Options(given: readonly string[]): string[] {
  const nameOf = (option: string): string => option.replaceAll('_', '-').replace(/=.*/s, '');
  const names = new Set(given.map(nameOf));
  return [...v8Options.filter((option) => !names.has(nameOf(option))), ...given];
}

/**
 * Starts this process over under these options, which Node.js takes at its start alone: in place, so with the same id,
 * environment and files. Does nothing where they are in force, where the system has no such call (Windows), and in a
 * child with a channel to its parent, which would be lost: who starts those gives the options himself.
 */
export function applyV8Options(): void {
  const options = withV8Options(process.execArgv);
  if (options.length === process.execArgv.length || process.connected) return;
  if (process.platform === 'win32' || process.execve === undefined) return;
  process.execve(process.execPath, [process.execPath, ...options, ...process.argv.slice(1)]);
}
