import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { freePort } from '@sallyport/cli';
import { waitFor } from '../kit/condition.ts';
import { testConfig } from '../kit/config.ts';

export interface ControlProcess {
  readonly pid: number;
  end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void>;
}

/**
 * The control plane as a process of its own; resolves when it is ready.
 * @param prefix the command that starts it, such as `nice`
 */
export async function startControlProcess(
  environment: Readonly<Record<string, string>>,
  prefix: readonly string[] = [],
): Promise<ControlProcess> {
  const port = await freePort();
  const program = fileURLToPath(new URL('main.js', import.meta.resolve('@sallyport/control-plane')));
  const [command, ...args] = [...prefix, process.execPath, program];
  const child: ChildProcess = spawn(command, args, {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    env: {
      PATH: testConfig.path,
      SALLYPORT_OPERATIONS_PORT: String(port),
      SALLYPORT_LOG_LEVEL: 'error',
      ...environment,
    },
  });
  const isReady = async (): Promise<boolean> => {
    if (child.exitCode !== null) throw new Error(`the control plane ended with ${child.exitCode}`);
    return (await fetch(`http://127.0.0.1:${port}/readyz`)).ok;
  };
  await waitFor('the control plane is ready', isReady, { deadlineMs: 60_000 });
  return {
    pid: child.pid ?? 0,
    end: async (signal) => {
      const exited = once(child, 'exit');
      child.kill(signal);
      await exited;
    },
  };
}
