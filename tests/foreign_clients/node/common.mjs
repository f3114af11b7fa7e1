export const results = [];
export async function attempt(name, work) { try { const r = await work(); results.push([name, 'ok']); console.log('ok  ', name, JSON.stringify(r)?.slice(0,120)); return r; } catch (e) { results.push([name, String(e)]); console.log('FAIL', name, String(e.message).slice(0,500), e.code); } }
export function summary() { console.log(results.filter(r=>r[1]==='ok').length, 'of', results.length); }
