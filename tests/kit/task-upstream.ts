/**
 * An MCP server of 2026-07-28 with extensions: tasks (ext-tasks 2026-07-28), MCP Apps, and one that nobody knows. It
 * takes a task id for proof enough, as such servers may, and says what it was sent.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { z } from 'zod';

export const unknownExtension = 'com.example/unheard-of';
/** A view of MCP Apps, and the tool that names it. */
export const view = { uri: 'ui://weather/view.html', mimeType: 'text/html;profile=mcp-app', text: '<p>Rain</p>' };
const tasksExtension = 'io.modelcontextprotocol/tasks';
const capabilitiesKey = 'io.modelcontextprotocol/clientCapabilities';

const requestSchema = z.looseObject({
  id: z.union([z.string(), z.number()]).optional(),
  method: z.string(),
  params: z
    .looseObject({
      name: z.string().optional(),
      uri: z.string().optional(),
      taskId: z.string().optional(),
      inputResponses: z.record(z.string(), z.unknown()).optional(),
      notifications: z.looseObject({ taskIds: z.array(z.string()).optional() }).optional(),
      _meta: z.looseObject({}).optional(),
    })
    .optional(),
});
type Request = z.infer<typeof requestSchema>;

interface Task {
  taskId: string;
  status: string;
  answers: Record<string, unknown>;
}

export interface Seen {
  readonly method: string;
  readonly name: string | undefined;
  readonly params: Request['params'];
  readonly extensions: readonly string[];
}

const times = { createdAt: '2030-01-01T00:00:00Z', lastUpdatedAt: '2030-01-01T00:00:00Z', ttlMs: 60_000 };
const tool = (name: string, more: object = {}) => ({ name, inputSchema: { type: 'object' }, ...more });
const ui = { _meta: { ui: { resourceUri: view.uri, visibility: ['model', 'app'] } } };
export const taskTools = [tool('job'), tool('weather', ui), tool('odd')];

class TaskUpstream {
  readonly seen: Seen[] = [];
  readonly tasks = new Map<string, Task>();
  readonly #listeners = new Map<string, ServerResponse>();
  #id: unknown = null;

  async serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    if (incoming.method !== 'POST') return void response.writeHead(405).end();
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(Buffer.from(chunk as Uint8Array));
    const request = requestSchema.parse(JSON.parse(Buffer.concat(chunks).toString()));
    const capabilities = z
      .looseObject({ extensions: z.record(z.string(), z.unknown()).optional() })
      .parse(request.params?._meta?.[capabilitiesKey] ?? {});
    const extensions = Object.keys(capabilities.extensions ?? {});
    const name = incoming.headers['mcp-name'];
    this.seen.push({ method: request.method, name: String(name ?? ''), params: request.params, extensions });
    this.#answer(request, extensions, response);
  }

  #answer(request: Request, extensions: readonly string[], response: ServerResponse): void {
    const { id, method, params } = request;
    const send = (body: object, status = 200): void => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ jsonrpc: '2.0', id, ...body }));
    };
    const answer = (result: object): void => send({ result: { resultType: 'complete', ...result } });
    const cached = { ttlMs: 0, cacheScope: 'private' };
    if (method.startsWith('tasks/')) {
      const task = this.tasks.get(params?.taskId ?? '');
      if (!extensions.includes(tasksExtension)) return send({ error: { code: -32021, message: 'tasks' } }, 400);
      if (task === undefined) return send({ error: { code: -32602, message: 'Task not found' } });
      return answer(this.#onTask(method, task, params?.inputResponses ?? {}));
    }
    switch (method) {
      case 'server/discover': {
        const offered = { [tasksExtension]: {}, 'io.modelcontextprotocol/ui': {}, [unknownExtension]: { deep: [1] } };
        const all = { tools: {}, resources: {}, extensions: offered };
        return answer({ supportedVersions: ['2026-07-28'], capabilities: all, ...cached });
      }
      case 'tools/list':
        return answer({ tools: taskTools, ...cached });
      case 'resources/read':
        return answer({ contents: [view], ...cached });
      case 'tools/call':
        if (params?.name === 'odd') return send({ result: { resultType: 'com.example/later', ticket: 7 } });
        if (params?.name !== 'job') return answer({ content: [{ type: 'text', text: 'Rain' }] });
        if (!extensions.includes(tasksExtension)) return send({ error: { code: -32021, message: 'tasks' } }, 400);
        return send({ result: { resultType: 'task', ...this.#create() } });
      case 'subscriptions/listen':
        return this.#listen(id, params?.notifications?.taskIds ?? [], response);
      default:
        return send({ error: { code: -32601, message: 'Method not found' } }, 404);
    }
  }

  #create(): object {
    const task = { taskId: `raw-task-${this.tasks.size + 1}`, status: 'input_required', answers: {} };
    this.tasks.set(task.taskId, task);
    return { taskId: task.taskId, status: 'working', ...times };
  }

  #onTask(method: string, task: Task, answers: Record<string, unknown>): object {
    switch (method) {
      case 'tasks/get':
        return this.#shown(task);
      case 'tasks/update':
        Object.assign(task.answers, answers);
        task.status = 'completed';
        break;
      default:
        task.status = 'cancelled';
    }
    const listener = this.#listeners.get(task.taskId);
    if (listener !== undefined) {
      const _meta = { 'io.modelcontextprotocol/subscriptionId': this.#id };
      this.#event(listener, 'notifications/tasks', { ...this.#shown(task), _meta });
      this.#event(listener, 'notifications/tasks', {
        taskId: 'raw-task-of-nobody',
        status: 'working',
        ...times,
        _meta,
      });
    }
    return {};
  }

  #shown({ taskId, status, answers }: Task): object {
    const asked = { method: 'elicitation/create', params: { mode: 'form', message: 'Name?' } };
    if (status === 'input_required') return { taskId, status, ...times, inputRequests: { name: asked } };
    const content = [{ type: 'text', text: JSON.stringify(answers) }];
    return status === 'completed' ? { taskId, status, ...times, result: { content } } : { taskId, status, ...times };
  }

  #listen(id: Request['id'], taskIds: readonly string[], response: ServerResponse): void {
    this.#id = id;
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    const _meta = { 'io.modelcontextprotocol/subscriptionId': id };
    const known = taskIds.filter((taskId) => this.tasks.has(taskId));
    for (const taskId of known) this.#listeners.set(taskId, response);
    this.#event(response, 'notifications/subscriptions/acknowledged', { notifications: { taskIds: known }, _meta });
  }

  #event(response: ServerResponse, method: string, params: object): void {
    response.write(`event: message\ndata: ${JSON.stringify({ jsonrpc: '2.0', method, params })}\n\n`);
  }
}

export async function startTaskUpstream() {
  const upstream = new TaskUpstream();
  const server = createServer((incoming, response) => {
    upstream.serve(incoming, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`,
    seen: upstream.seen,
    tasks: upstream.tasks,
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
