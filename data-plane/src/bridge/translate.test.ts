import { expect, test } from 'vitest';
import { discoverResult, initializeResult } from './translate.ts';

const apps = { 'io.modelcontextprotocol/ui': { views: [1] } };
const capabilities = {
  tools: { listChanged: true },
  tasks: {},
  extensions: { ...apps, 'io.modelcontextprotocol/tasks': {}, 'com.example/other': {} },
};

test('of what a server declares, what crosses eras does: its settings of MCP Apps, and no tasks', () => {
  const crossed = { tools: { listChanged: true }, extensions: apps };
  expect(initializeResult({ capabilities }, '2025-11-25', 's')['capabilities']).toEqual(crossed);
  expect(discoverResult({ capabilities }, [])['capabilities']).toEqual(crossed);
  const none = { capabilities: { tools: {}, extensions: { 'com.example/other': {} } } };
  expect(discoverResult(none, [])['capabilities']).toEqual({ tools: {} });
});
