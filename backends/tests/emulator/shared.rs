//! The shared memory of a block: variables of the code, and what the launch gives.

use super::{
    mbarrier::Barriers,
    ptx::{Function, Module},
    races::Races,
    run::Memory,
    tile::TileCopy,
};
use std::{
    alloc::{Layout, alloc, dealloc},
    cell::RefCell,
    collections::HashMap,
};

/// The memory that a launch gives a block. Its addresses are those of the host, the last [`WINDOW_BITS`] of which are what a
/// device has as addresses in shared memory: so it begins where these are zero, and what the system keeps comes first.
struct Window {
    start: *mut u8,
    bytes: usize,
}

const WINDOW_BITS: u32 = 18;
const SYSTEM_BYTES: usize = 1024;
const CHUNK: u64 = 16;

impl Window {
    fn layout() -> Layout {
        Layout::from_size_align(1 << WINDOW_BITS, 1 << WINDOW_BITS).unwrap()
    }

    fn new(bytes: usize) -> Window {
        assert!(SYSTEM_BYTES + bytes <= 1 << WINDOW_BITS);
        let start = unsafe { alloc(Window::layout()) };
        assert!(!start.is_null());
        // What is read before it is written is not zero by luck.
        unsafe { start.write_bytes(0xa5, SYSTEM_BYTES + bytes) };
        Window { start, bytes }
    }

    fn address(&self) -> u64 {
        self.start as u64 + SYSTEM_BYTES as u64
    }

    fn has(&self, start: u64, len: u64) -> bool {
        start >= self.address() && start + len <= self.address() + self.bytes as u64
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        unsafe { dealloc(self.start, Window::layout()) };
    }
}

/// Variables in shared memory: what a block has of them is made when it first meets their names. One without a size is the
/// memory that the launch gives.
pub struct Shared<'m> {
    sizes: &'m HashMap<String, usize>,
    variables: RefCell<HashMap<String, Box<[u128]>>>,
    window: Option<Window>,
    pub barriers: Barriers,
    /// Copies of tiles that are under way.
    pub tiles: RefCell<Vec<TileCopy>>,
    pub races: Races,
    /// Chunks of what the launch gives that a thread has stored to, and no fence has shown to products since.
    unshown: RefCell<HashMap<u64, u32>>,
}

impl<'m> Shared<'m> {
    pub fn new(module: &'m Module, entry: &Function, bytes: usize) -> Shared<'m> {
        let window = (bytes > 0).then(|| Window::new(bytes));
        let (variables, tiles) = (RefCell::default(), RefCell::default());
        let races = Races::of(module, entry);
        let (barriers, unshown) = (Barriers::default(), RefCell::default());
        Shared { sizes: &module.shared, variables, window, barriers, tiles, races, unshown }
    }

    /// Notes that a thread has stored bytes.
    pub fn stored(&self, at: u64, bytes: u64, thread: u32) {
        if self.window.as_ref().is_some_and(|w| w.has(at, bytes)) {
            let mut unshown = self.unshown.borrow_mut();
            unshown.extend((at / CHUNK..(at + bytes).div_ceil(CHUNK)).map(|chunk| (chunk, thread)));
        }
    }

    /// Shows products what a thread has stored.
    pub fn show(&self, thread: u32) {
        self.unshown.borrow_mut().retain(|_, by| *by != thread);
    }

    /// Has the copy of a tile arrive that was begun last, if any is under way.
    pub fn deliver(&self, memory: &dyn Memory) -> Result<bool, String> {
        let last = self.tiles.borrow_mut().pop();
        last.map_or(Ok(false), |copy| copy.arrive(memory, self).map(|()| true))
    }

    /// Two bytes at an address of the device.
    pub fn element(&self, at: u64) -> Result<u16, String> {
        let window = self.window.as_ref().ok_or("the launch gives no memory")?;
        let place = window.start as u64 + at;
        if !self.allows(place, 2) {
            return Err(format!("a matrix reaches to {at:#x} in shared memory"));
        }
        if let Some(by) = self.unshown.borrow().get(&(place / CHUNK)) {
            return Err(format!("a product reads what thread {by} has stored without a fence"));
        }
        // Checked just now.
        Ok(unsafe { (place as *const u16).read() })
    }

    pub fn address(&self, name: &str) -> Result<u64, String> {
        let bytes = *self.sizes.get(name).ok_or_else(|| format!("there is no variable {name}"))?;
        if bytes == 0 {
            let window = self.window.as_ref().ok_or_else(|| format!("the launch gives no memory for {name}"))?;
            return Ok(window.address());
        }
        let mut variables = self.variables.borrow_mut();
        // What is read before it is written is not zero by luck.
        let make = || vec![u128::from_le_bytes([0xa5; 16]); bytes.div_ceil(16)].into();
        Ok(variables.entry(name.to_string()).or_insert_with(make).as_ptr() as u64)
    }

    pub fn allows(&self, start: u64, len: u64) -> bool {
        if self.window.as_ref().is_some_and(|w| w.has(start, len)) {
            return true;
        }
        let variables = self.variables.borrow();
        variables.iter().any(|(name, memory)| {
            let at = memory.as_ptr() as u64;
            start >= at && start + len <= at + self.sizes[name] as u64
        })
    }
}
