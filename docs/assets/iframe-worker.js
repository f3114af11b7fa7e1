// A page that was opened from the disk may start no worker, and the search runs in one. There, a
// frame stands in for it: it runs the worker's script, and passes messages on.
"use strict";
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      const scope = frame.contentDocument;
      // importScripts() loads one after the other; the search awaits what it returns.
      this.inside.importScripts = (...urls) =>
        urls.reduce((before, next) => before.then(() => load(scope, next)), Promise.resolve());
      // The worker answers with postMessage(): what the page sent itself comes by dispatchEvent().
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = load(scope, url);
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.inside.frameElement.remove();
    }
  };
}

function load(scope, url) {
  return new Promise((resolve, reject) => {
    const script = scope.createElement("script");
    script.src = new URL(url, location);
    script.onload = resolve;
    script.onerror = () => reject(new Error(`cannot load ${url}`));
    scope.head.append(script);
  });
}
