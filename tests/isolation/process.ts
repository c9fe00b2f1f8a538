/** A process of its own for what is not under test: the shared upstream and all the callers. */
import { startEchoUpstream } from '../kit/echo-upstream.ts';
import { type CallersOptions, type CallersResult, runCallers } from './callers.ts';

export type ToProcess = { readonly type: 'call'; readonly options: CallersOptions };
export type FromProcess =
  | { readonly type: 'ready'; readonly upstreamUrl: string }
  | { readonly type: 'done'; readonly result: CallersResult }
  | { readonly type: 'failed'; readonly message: string };

const tell = (message: FromProcess): void => void process.send?.(message);

const upstream = await startEchoUpstream();
process.on('disconnect', () => process.exit(0));
process.on('message', (message: ToProcess) => {
  runCallers(message.options).then(
    (result) => tell({ type: 'done', result }),
    (error: unknown) => tell({ type: 'failed', message: String(error) }),
  );
});
tell({ type: 'ready', upstreamUrl: upstream.url });
