import type { Cancellation, Connections, UpstreamRequest, UpstreamResponse } from './connections.ts';
import { HttpSseUpstreams, type HttpSseUpstreamsOptions } from './http-sse-upstreams.ts';

/** The way to upstreams by whichever transport each has; all answer like Streamable HTTP. */
export class Upstreams implements Pick<Connections, 'send'> {
  readonly #connections: Pick<Connections, 'send'>;
  readonly #httpSse: HttpSseUpstreams;

  constructor(options: HttpSseUpstreamsOptions) {
    this.#connections = options.connections;
    this.#httpSse = new HttpSseUpstreams(options);
  }

  /** @throws AppError UPSTREAM_…, OVERLOADED */
  send(request: UpstreamRequest, cancelled: Cancellation | null): Promise<UpstreamResponse> {
    return request.transport === 'httpSse'
      ? this.#httpSse.send(request, cancelled)
      : this.#connections.send(request, cancelled);
  }

  close(): void {
    this.#httpSse.close();
  }
}
