/** Threads of their own, so that what one of them does delays nothing of what another measures. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

/** Sends a message to a thread, and returns what it sends next. */
export async function ask<Answer>(thread: Worker, message: unknown): Promise<Answer> {
  const answered = once(thread, 'message') as Promise<[Answer]>;
  thread.postMessage(message);
  return (await answered)[0];
}

/** An upstream, by the program that starts it and tells where it is. @returns its URL */
export async function startUpstreamThread(program: URL, atEnd: (stop: () => Promise<void>) => void): Promise<string> {
  const thread = new Worker(program);
  atEnd(async () => void (await thread.terminate()));
  const [url] = (await once(thread, 'message')) as [string];
  return url;
}
