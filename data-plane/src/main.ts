import { createLog, loggedError } from '@sallyport/schema/platform';
import { startNode } from './app.ts';
import { configHelp, readConfig, redactedConfig } from './config.ts';

async function main(): Promise<void> {
  if (process.argv.includes('--help')) {
    console.log(configHelp());
    return;
  }
  const parsed = readConfig();
  if (!parsed.ok) {
    console.error(`The node cannot start:\n${parsed.problems.map((problem) => `  ${problem}`).join('\n')}`);
    console.error('Run with --help for every variable.');
    process.exitCode = 1;
    return;
  }
  const { config } = parsed;
  const log = createLog({ name: 'sallyport-node', level: config.logLevel });
  log.info({ config: redactedConfig(config) }, 'starting');
  // Asked to stop before it had joined: there is nothing to drain.
  const leave = (): void => process.exit(0);
  const signals = ['SIGTERM', 'SIGINT'] as const;
  for (const signal of signals) process.once(signal, leave);
  // Started as a child: without its parent it must not live on.
  const isChild = process.connected;
  if (isChild) process.once('disconnect', leave);
  const node = await startNode(config, { log });
  log.info({ url: node.url, operationsUrl: node.operationsUrl, nodeId: node.nodeId }, 'the node listens');
  const stop = (): void => {
    node.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: error }, 'the node did not stop cleanly');
        process.exit(1);
      },
    );
  };
  for (const signal of signals) {
    process.off(signal, leave);
    process.once(signal, stop);
  }
  if (!isChild) return;
  process.off('disconnect', leave);
  if (process.connected) process.once('disconnect', stop);
  else stop();
}

main().catch((error: unknown) => {
  console.error(loggedError(error));
  process.exit(1);
});
