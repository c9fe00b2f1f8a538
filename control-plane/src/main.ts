import { createLog, loggedError } from '@sallyport/schema/platform';
import { type ControlPlane, startControlPlane } from './app.ts';
import { configHelp, readConfig, redactedConfig } from './config.ts';

/** A second signal, or a stop that takes longer than the drain and this, ends the process at once. */
const stopGraceMs = 10_000;

async function run(): Promise<void> {
  const parsed = readConfig();
  if (!parsed.ok) {
    console.error(`The control plane cannot start:\n${parsed.problems.map((problem) => `  ${problem}`).join('\n')}`);
    console.error('Run with --help for what each variable means.');
    process.exitCode = 1;
    return;
  }
  const { config } = parsed;
  const log = createLog({ name: 'control-plane', level: config.logLevel });
  log.info({ config: redactedConfig(config) }, 'control plane starts');
  let controlPlane: ControlPlane | undefined;
  let stopping = false;
  const stop = (why: string): void => {
    if (stopping) process.exit(1);
    stopping = true;
    log.info({ why }, 'control plane stops');
    // Still starting, perhaps waiting for its database: nobody is served, and what it began there is rolled back.
    if (controlPlane === undefined) process.exit(0);
    setTimeout(() => process.exit(1), config.drainTimeoutMs + stopGraceMs).unref();
    controlPlane.stop().then(
      () => process.exit(0),
      () => process.exit(1),
    );
  };
  process.on('SIGTERM', () => stop('SIGTERM'));
  process.on('SIGINT', () => stop('SIGINT'));
  // Started by another program over IPC: without it nobody would end this one.
  if (process.connected) process.on('disconnect', () => stop('the parent process went away'));

  controlPlane = await startControlPlane(config, { log });
  const { graphqlUrl, syncUrl, operationsUrl, bootstrapToken } = controlPlane;
  log.info({ graphqlUrl, syncUrl, operationsUrl }, 'control plane is up');
  // Nobody could ask for it again.
  if (bootstrapToken !== undefined && !log.isLevelEnabled('warn')) console.error(`Bootstrap token: ${bootstrapToken}`);
  process.send?.({ type: 'ready', graphqlUrl, syncUrl, operationsUrl, bootstrapToken });
}

if (process.argv.includes('--help')) {
  console.log(configHelp());
} else {
  run().catch((error: unknown) => {
    console.error(loggedError(error));
    process.exit(1);
  });
}
