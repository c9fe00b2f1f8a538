import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { Pool } from 'undici';
import type { TestConfiguration } from '../data-plane/pipeline-node.ts';
import { median } from './load.ts';
import { ask } from './thread.ts';

export interface Measured {
  readonly rate: number;
  readonly p50Ms: number;
  /** Of the node alone. */
  readonly cpuMicroseconds: number;
}

export interface Call {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** A node in a thread of its own, so that its processor time is not mixed with that of clients and servers. */
export class NodeThread {
  readonly #worker: Worker;
  #port = 0;

  constructor(configuration: TestConfiguration) {
    this.#worker = new Worker(new URL('./pipeline-thread.js', import.meta.url), { workerData: configuration });
  }

  async start(): Promise<void> {
    const [port] = (await once(this.#worker, 'message')) as [number];
    this.#port = port;
  }

  url(slug: string): string {
    return `http://127.0.0.1:${this.#port}/mcp/${slug}`;
  }

  cpuMicroseconds(): Promise<number> {
    return ask<number>(this.#worker, 'cpu');
  }

  async stop(): Promise<void> {
    await this.#worker.terminate();
  }

  /** Closed loop: each of the connections sends the same call again as soon as it was answered. */
  async measure(slug: string, call: Call, connections: number, seconds: number): Promise<Measured> {
    const url = new URL(this.url(slug));
    const pool = new Pool(url.origin, { connections });
    const latencies: number[] = [];
    const cpuBefore = await this.cpuMicroseconds();
    const end = performance.now() + seconds * 1000;
    const caller = async (): Promise<void> => {
      while (performance.now() < end) {
        const before = performance.now();
        const response = await pool.request({ path: url.pathname, method: 'POST', ...call });
        await response.body.dump();
        if (response.statusCode !== 200) throw new Error(`${slug} answered ${response.statusCode}`);
        latencies.push(performance.now() - before);
      }
    };
    await Promise.all(Array.from({ length: connections }, caller));
    const cpuMicroseconds = ((await this.cpuMicroseconds()) - cpuBefore) / latencies.length;
    await pool.close();
    return { rate: latencies.length / seconds, p50Ms: median(latencies), cpuMicroseconds };
  }
}
